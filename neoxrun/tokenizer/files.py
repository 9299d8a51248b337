"""Reading tokenizer files: tokenizer.json, a SentencePiece model, or GPT-2's vocab.json and merges.txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as _Library

from neoxrun.config.json_file import refuse_lfs_pointer
from neoxrun.config.released import download_command
from neoxrun.config.settings import TokenizerConfig
from neoxrun.config.tokenizer_names import MERGES, SPIECE_TYPE, VOCABULARY, is_spiece
from neoxrun.errors import ConfigError, DataError
from neoxrun.tokenizer.rebuild import build_gpt2, rebuild
from neoxrun.tokenizer.siblings import read_siblings
from neoxrun.tokenizer.text import END_OF_DOCUMENT, Tokenizer

_PADDING: Final = "<|padding|>"
_TYPES: Final = {name.lower(): name for name in ("HFTokenizer", "GPT2BPETokenizer", "HFGPT2Tokenizer", SPIECE_TYPE)}


def load_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Load the tokenizer that a configuration names, with the files next to it that say how it is used.

    Raises:
        ConfigError: the type is not supported, or neither a file nor a folder is named.
        DataError: a file is missing, damaged or not a tokenizer.
    """
    kind = _kind(config)
    path = _vocab_file(config)
    if kind == SPIECE_TYPE:
        from neoxrun.tokenizer.spiece import load_spiece

        return load_spiece(path, _read_bytes(path, config), read_siblings(path.parent), _download_hint(path))
    if kind == "HFTokenizer":
        return _load_hugging_face(path, config)

    vocab_path, merge_path = _gpt2_files(kind, path, config)
    vocabulary = _read_vocabulary(vocab_path, config)
    merges = _read_text(merge_path, config, "merge file")
    siblings = read_siblings(path.parent) if kind == "GPT2BPETokenizer" else None
    try:
        pairs = _parse_merges(merges)
        if siblings is not None:
            library = build_gpt2(vocabulary, pairs, siblings)
            return Tokenizer(
                library, skip_special=True, byte_level=True, names=siblings.names, cleans=siblings.cleans(bpe=True)
            )
        library = _Library(models.BPE(vocabulary, pairs))
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{merge_path} does not belong to {vocab_path}: {error}",
            code="bad_tokenizer",
            where=str(merge_path),
            hint="The two files must come from the same tokenizer.",
        ) from error
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    if END_OF_DOCUMENT in vocabulary:
        library.add_special_tokens([AddedToken(END_OF_DOCUMENT, special=True, normalized=False)])
    if kind == "HFGPT2Tokenizer":
        library.add_special_tokens([AddedToken(_PADDING, special=True, normalized=False)])
    return Tokenizer(library, skip_special=False, byte_level=True)


def _load_hugging_face(path: Path, config: TokenizerConfig) -> Tokenizer:
    """The tokenizer in a tokenizer.json."""
    text = _read_text(path, config)
    siblings = read_siblings(path.parent)
    content = _parse_json(path, text)
    try:
        library = rebuild(text, content, siblings)
    except Exception as error:  # the library raises nothing more precise
        raise _damaged(path, content, error) from error
    # A file may hold the padding and truncation used in training; both would silently change prompts.
    library.no_padding()
    library.no_truncation()
    byte_level = isinstance(library.decoder, decoders.ByteLevel)
    names = {} if siblings is None else siblings.names
    cleans = siblings is not None and siblings.cleans(bpe=isinstance(library.model, models.BPE))
    return Tokenizer(library, skip_special=True, byte_level=byte_level, names=names, cleans=cleans)


def vocabulary_size(config: TokenizerConfig) -> int | None:
    """``vocab_size`` of the tokenizer, without building it; None if its file does not exist.

    Raises:
        ConfigError: the type is not supported.
        DataError: the file is damaged or not a tokenizer.
    """
    kind = _kind(config)
    if config.vocab_file is None or not config.vocab_file.exists():
        return None
    if kind == SPIECE_TYPE:
        return load_tokenizer(config).vocab_size
    siblings = read_siblings(config.vocab_file.parent)
    if kind != "HFTokenizer":
        vocabulary = _read_vocabulary(_gpt2_files(kind, config.vocab_file, config)[0], config)
        if kind == "HFGPT2Tokenizer":
            return len(vocabulary.keys() | {_PADDING})
        return len(vocabulary.keys() | (set() if siblings is None else siblings.contents))
    content = _parse_json(config.vocab_file, _read_text(config.vocab_file, config))
    try:
        entries = content["model"]["vocab"]
        # A mapping, or (Unigram) a list of pairs.
        names = set(entries) if isinstance(entries, dict) else {name for name, _ in entries}
        if siblings is None or not siblings.replaces:
            names |= {added["content"] for added in content["added_tokens"]}
        return len(names | (set() if siblings is None else siblings.contents))
    except (LookupError, TypeError, ValueError) as error:
        raise _damaged(config.vocab_file, content, error) from error


def _kind(config: TokenizerConfig) -> str:
    """The type, as GPT-NeoX calls it; a ``.model`` file is SentencePiece's, whatever the configuration calls it."""
    if is_spiece(config.vocab_file, config.tokenizer_type):
        return SPIECE_TYPE
    kind = _TYPES.get(config.tokenizer_type.lower())
    if kind is None:
        raise ConfigError(
            f"tokenizer_type: {config.tokenizer_type} is not supported",
            code="unsupported_option",
            hint=f"Supported: {', '.join(_TYPES.values())} (a tokenizer.json is an HFTokenizer).",
        )
    return kind


def _vocab_file(config: TokenizerConfig) -> Path:
    if config.vocab_file is None:
        if config.folder is not None:
            raise DataError(
                f"there is no tokenizer in {config.folder}: neither tokenizer.json, tokenizer.model or spiece.model, "
                "nor vocab.json and merges.txt",
                code="missing_file",
                where=str(config.folder),
                hint=_download_hint(
                    config.folder / "tokenizer.json",
                    "Copy its files from where the weights came from, or name it with --tokenizer FILE.",
                ),
            )
        raise ConfigError(
            "the configuration names no tokenizer",
            code="incomplete_configuration",
            hint="Set vocab_file in the configuration, or give --tokenizer FILE.",
        )
    return config.vocab_file


def _gpt2_files(kind: str, path: Path, config: TokenizerConfig) -> tuple[Path, Path]:
    """The paths of vocab.json and merges.txt; for an HFGPT2Tokenizer, ``vocab_file`` is the folder of both."""
    if kind == "HFGPT2Tokenizer" and path.is_dir():
        return path / VOCABULARY, path / MERGES
    merge_file = config.merge_file
    if merge_file is None:
        raise ConfigError(
            f"tokenizer_type {kind} needs a merge_file in addition to the vocab_file {path}",
            code="incomplete_configuration",
            hint="Give it with --set merge_file=FILE. A tokenizer.json needs --set tokenizer_type=HFTokenizer instead.",
        )
    return path, merge_file


def _read_vocabulary(path: Path, config: TokenizerConfig) -> dict[str, int]:
    """The token -> id mapping of a GPT-2 vocab.json."""
    content = _parse_json(path, _read_text(path, config))
    if isinstance(content, dict) and "model" in content:
        raise DataError(
            f"{path} is a tokenizer of type HFTokenizer, but tokenizer_type is {config.tokenizer_type}",
            code="bad_tokenizer",
            where=str(path),
            hint="Set tokenizer_type to HFTokenizer in the configuration, or with --set tokenizer_type=HFTokenizer.",
        )
    if not isinstance(content, dict) or not all(type(number) is int for number in content.values()):
        raise DataError(
            f"{path} is not a vocabulary: it does not map tokens to ids",
            code="bad_tokenizer",
            where=str(path),
        )
    return content


def _parse_merges(text: str) -> list[tuple[str, str]]:
    """The pairs in a merges.txt, whose first line may be a version."""
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("#version")]
    pairs = [tuple(line.rstrip("\r").split(" ")) for line in lines]
    wrong = next((number for number, pair in enumerate(pairs) if len(pair) != 2), None)
    if wrong is not None:
        raise ValueError(f"merge {wrong + 1} is not two tokens")
    return [(left, right) for left, right in pairs]


def _read_text(path: Path, config: TokenizerConfig, what: str = "tokenizer file") -> str:
    """The text of one of the tokenizer's files."""
    hint = _download_hint(path)
    try:
        text = _read_bytes(path, config, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file", code="not_text", where=str(path), hint=hint) from error
    if not text.strip():
        raise DataError(f"the {what} {path} is empty", code="bad_tokenizer", where=str(path), hint=hint)
    if text.lstrip().startswith("<"):
        raise DataError(
            f"{path} is a web page, not a {what}: the download failed",
            code="bad_tokenizer",
            where=str(path),
            hint=hint,
        )
    return text


def _read_bytes(path: Path, config: TokenizerConfig, what: str = "tokenizer file") -> bytes:
    """The bytes of one of the tokenizer's files."""
    hint = _download_hint(path)
    try:
        content = path.read_bytes()
        refuse_lfs_pointer(path, content, DataError)
        return content
    except FileNotFoundError as error:
        others = [other for other in config.looked_in if other != path] if path == config.vocab_file else []
        also = f" (nor {', '.join(map(str, others))})" if others else ""
        raise DataError(f"there is no {what} {path}{also}", code="missing_file", where=str(path), hint=hint) from error
    except OSError as error:
        raise DataError(
            f"the {what} {path} cannot be read: {error.strerror}",
            code="unreadable_file",
            where=str(path),
            hint=hint,
        ) from error


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(
            f"{path} is not JSON: it is cut off or damaged",
            code="bad_tokenizer",
            where=f"{path}{line}",
            hint=_download_hint(path),
        ) from error


def _damaged(path: Path, content: Any, error: Exception) -> DataError:
    """The error for a JSON file that is not a tokenizer."""
    foreign = isinstance(content, dict) and "model" not in content
    problem = "it has no `model`" if foreign else str(error)
    return DataError(
        f"{path} is not a tokenizer.json: {problem}",
        code="bad_tokenizer",
        where=str(path),
        hint=_download_hint(path),
    )


def _download_hint(path: Path, otherwise: str = "Name the model's tokenizer with --tokenizer FILE.") -> str:
    """How to get a tokenizer that is missing or damaged; ``otherwise`` where its folder is no released model's."""
    command = download_command(path.parent)
    if command is None:
        return otherwise
    return f"Get the tokenizer with `{command}`, or name it with --tokenizer FILE."
