"""A tokenizer.json as transformers (5) makes it work: its classes rebuild parts of it, and other files add tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as _Library

from neoxrun.config.tokenizer_names import TOKENIZER_CONFIG
from neoxrun.errors import DataError
from neoxrun.tokenizer.siblings import Siblings, content_of


def rebuild(text: str, content: Mapping[str, Any], siblings: Siblings | None) -> _Library:
    """The tokenizer that transformers' ``AutoTokenizer`` makes of a folder of a GPT-NeoX model.

    Without other files in the folder it is tokenizer.json as GPT-NeoX reads it, unchanged. A class that does not fit
    the file (a byte-level one, and a file with words that begin with U+2581) leaves it unchanged, too.

    Args:
        text: of tokenizer.json.
        content: the same, parsed.
        siblings: what the other files say.
    """
    if siblings is None:
        return _Library.from_str(text)
    library = _rebuilt(content, siblings)
    if library is None:
        library = _Library.from_str(text)
        _add_tokens(library, siblings, {})
    else:
        _add_tokens(library, siblings, _added_tokens(content))
    library.encode_special_tokens = bool(siblings.says("split_special_tokens"))
    return library


def _rebuilt(content: Mapping[str, Any], siblings: Siblings) -> _Library | None:
    """The tokenizer of a class that keeps only words, merges and post-processor of the file; None for other classes."""
    model = content["model"]
    byte_level = "ByteLevel" in json.dumps(content.get("pre_tokenizer"))
    if model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        return None
    if siblings.class_name in ("GPTNeoXTokenizer", "GPT2Tokenizer") and byte_level:
        library = _byte_level(model["vocab"], _merges(model), siblings)
        if siblings.class_name == "GPTNeoXTokenizer":
            # It takes the post-processor for add_bos_token and add_eos_token, which tokenizer.json overrules.
            return library
    elif siblings.class_name == "LlamaTokenizer" and not byte_level:
        library = _llama(model["vocab"], _merges(model), siblings)
    else:
        return None
    post_processor = content.get("post_processor")
    if post_processor is not None:
        library.post_processor = _post_processor(content)
    return library


def build_llama(vocabulary: Mapping[str, int], added: Sequence[AddedToken], siblings: Siblings) -> _Library:
    """What transformers' LlamaTokenizer makes of a SentencePiece model of the kind BPE.

    Args:
        vocabulary: the model's pieces.
        added: those of them that are control or user-defined symbols.
        siblings: what the files next to it say.
    """
    library = _llama(vocabulary, _find_merges(vocabulary), siblings)
    _add_tokens(library, replace(siblings, extra=(*siblings.extra, *added)), {})
    _begin_and_end(library, siblings)
    return library


def build_gpt2(vocabulary: Mapping[str, int], merges: list[tuple[str, str]], siblings: Siblings) -> _Library:
    """What transformers makes of vocab.json and merges.txt in a folder of a GPT-NeoX model.

    Args:
        vocabulary: the entries.
        merges: the pairs.
        siblings: what the files next to them say. A class that is not byte-level counts as GPTNeoXTokenizer.
    """
    library = _byte_level(vocabulary, merges, siblings)
    _add_tokens(library, siblings, {})
    _begin_and_end(library, siblings)
    return library


def _begin_and_end(library: _Library, siblings: Siblings) -> None:
    """Add tokens to every text as ``add_bos_token`` and ``add_eos_token`` say; a tokenizer.json overrules them."""
    begin, end = (_asked_for(siblings, name) for name in ("bos_token", "eos_token"))
    library.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}".strip(),
        special_tokens=[(token, library.token_to_id(token)) for token in {begin, end} - {""}],
    )


def _asked_for(siblings: Siblings, name: str) -> str:
    """The token of this name if it is to be added to every text, else nothing.

    Raises:
        DataError: it is to be added, and there is none.
    """
    if not siblings.says(f"add_{name}"):
        return ""
    if token := siblings.names.get(name):
        return token
    raise DataError(
        f"tokenizer_config.json says add_{name}, but no {name}",
        code="bad_tokenizer",
        where=str(siblings.folder / TOKENIZER_CONFIG),
        hint=f"Name the token under {name} there, or set add_{name} to false.",
    )


def _byte_level(vocabulary: Mapping[str, int], merges: list[tuple[str, str]], siblings: Siblings) -> _Library:
    model = models.BPE(dict(vocabulary), merges, continuing_subword_prefix="", end_of_word_suffix="")
    library = _Library(model)
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(siblings.says("add_prefix_space")))
    library.decoder = decoders.ByteLevel()
    if siblings.class_name != "GPT2Tokenizer":
        library.normalizer = normalizers.NFC()
    return library


def _llama(vocabulary: Mapping[str, int], merges: list[tuple[str, str]], siblings: Siblings) -> _Library:
    library = _Library(models.BPE(dict(vocabulary), merges, fuse_unk=True, byte_fallback=True))
    prefix = siblings.says("add_prefix_space") is not False
    scheme = "never" if not prefix else "always" if siblings.says("legacy") else "first"
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if prefix else parts)
    return library


def _find_merges(vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every way to put a piece together of two others; those of earlier pieces come first, as in training."""
    merges = []
    for piece in vocabulary:
        pairs = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return sorted(merges, key=lambda pair: (vocabulary[pair[0] + pair[1]], len(pair[0]), len(pair[1])))


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return [(left, right) for left, right in pairs]


def _post_processor(content: Mapping[str, Any]) -> processors.PostProcessor:
    """The file's post-processor, made by the library from a file without words."""
    model = {"type": "BPE", "vocab": {}, "merges": []}
    empty = {**content, "model": model, "added_tokens": [], "truncation": None, "padding": None}
    found: processors.PostProcessor = _Library.from_str(json.dumps(empty)).post_processor
    return found


def _added_tokens(content: Mapping[str, Any]) -> dict[int, AddedToken]:
    return {
        entry["id"]: AddedToken(**{key: value for key, value in entry.items() if key != "id"})
        for entry in content.get("added_tokens", [])
    }


def _add_tokens(library: _Library, siblings: Siblings, of_file: Mapping[int, AddedToken]) -> None:
    """Add what the library does not have yet, in transformers' order, since the order gives new tokens their ids."""
    by_id = {**siblings.added, **({} if siblings.replaces else of_file)}
    has = {repr(token) for token in library.get_added_tokens_decoder().values()}
    tokens = [token for _, token in sorted(by_id.items()) if repr(token) not in has]
    known = {token.content for token in library.get_added_tokens_decoder().values()}
    known |= {token.content for token in tokens}
    named = set(siblings.names.values())
    for token in (*siblings.named.values(), *siblings.extra):
        if content_of(token) not in known:
            known.add(content_of(token))
            tokens.append(AddedToken(token, special=True) if isinstance(token, str) else token)
    library.add_tokens([_special(token) if token.content in named else token for token in tokens])


def _special(token: AddedToken) -> AddedToken:
    """The same token, as a special one."""
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )
