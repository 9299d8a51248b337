"""The tokenizer's files of a model, for its new folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from neoxrun.config.settings import TokenizerConfig
from neoxrun.conversion.configurations import end_options
from neoxrun.conversion.workplace import Workplace
from neoxrun.errors import CheckpointError
from neoxrun.tokenizer import Tokenizer, load_tokenizer
from neoxrun.tokenizer.siblings import read_siblings
from neoxrun.tokenizer.text import END_OF_DOCUMENT

_GENERATION_CONFIG: Final = "generation_config.json"
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"

# What transformers and neoxrun read next to the vocabulary, where a model has it.
_COMPANIONS: Final = (
    _TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    _GENERATION_CONFIG,
)
_NAMES: Final = {"hftokenizer": "tokenizer.json", "gpt2bpetokenizer": "vocab.json", "hfgpt2tokenizer": "vocab.json"}
_SPIECE: Final = ("tokenizer.model", "spiece.model")  # the names under which folders have SentencePiece models


def tokenizer_files(config: TokenizerConfig) -> dict[str, Path]:
    """The files that make up a tokenizer, by the names under which they are to be written."""
    path = config.vocab_file
    if path is None:
        return {}
    folder = path.parent
    if _is_spiece(config):
        files = {path.name if path.name in _SPIECE else _SPIECE[0]: path}
    elif path.is_dir():  # an HFGPT2Tokenizer's
        files, folder = {"vocab.json": path / "vocab.json", "merges.txt": path / "merges.txt"}, path
    else:
        files = {_NAMES.get(config.tokenizer_type.lower(), path.name): path}
        if config.merge_file is not None:
            files["merges.txt"] = config.merge_file
    return files | {name: folder / name for name in _COMPANIONS if (folder / name).is_file()}


def copy_tokenizer(work: Workplace, config: TokenizerConfig) -> TokenizerConfig:
    """Copy the files, and return the tokenizer's configuration with their new paths."""
    files = tokenizer_files(config)
    for name, path in files.items():
        work.write_bytes(name, path.read_bytes())
    if not files:
        return config
    kind = "GPT2BPETokenizer" if config.tokenizer_type.lower() == "hfgpt2tokenizer" else config.tokenizer_type
    merges = work.folder / "merges.txt" if "merges.txt" in files else None
    return replace(
        config,
        tokenizer_type="SPMTokenizer" if _is_spiece(config) else kind,
        vocab_file=work.folder / next(iter(files)),
        merge_file=merges,
    )


def write_generation_config(work: Workplace, ends: Sequence[int]) -> None:
    """generation_config.json, where the source had none; ``ends`` are ids of the tokens that end a text."""
    if not work.has(_GENERATION_CONFIG):
        work.write_json(_GENERATION_CONFIG, {"_from_model_config": True, **end_options(ends)})


def write_tokenizer_config(work: Workplace, config: TokenizerConfig, tokenizer: Tokenizer, context: int) -> None:
    """tokenizer_config.json, where the source had none: it says of the tokenizer what it is without it.

    Args:
        work: where to write.
        config: where the source's tokenizer is.
        tokenizer: the tokenizer.
        context: most tokens of a text.
    """
    if work.has(_TOKENIZER_CONFIG):
        return
    assert config.vocab_file is not None
    content = dict(tokenizer.names)
    rest: dict[str, object] = {"clean_up_tokenization_spaces": False, "model_max_length": context}
    siblings = read_siblings(config.vocab_file.parent)
    if not _is_spiece(config):  # whose names come from the model; a class would change how it works
        if content and siblings is not None:
            rest["tokenizer_class"] = siblings.class_name
        else:
            names = ("bos_token", "eos_token", "unk_token") if tokenizer.eod is not None else ()
            content = dict.fromkeys(names, END_OF_DOCUMENT)
            rest["tokenizer_class"] = "PreTrainedTokenizerFast" if work.has("tokenizer.json") else "GPT2Tokenizer"
    work.write_json(_TOKENIZER_CONFIG, content | rest)


def check_tokenizer(source: Tokenizer, target: TokenizerConfig, folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of ``texts``, which are the same with the tokenizer of either side.

    Args:
        source: the source's tokenizer.
        target: where the target's is.
        folder: the target.
        texts: what to compare.

    Raises:
        CheckpointError: the folder has no tokenizer, or its tokenizer is another one.
        DataError: a file is damaged.
    """
    encoded = source.encode_all(list(texts))
    found = None if target.vocab_file is None else load_tokenizer(target)
    if found is None or found.encode_all(list(texts)) != encoded or found.eod != source.eod:
        raise CheckpointError(
            "the converted folder has "
            + ("no tokenizer" if found is None else "a tokenizer that turns texts into other tokens than the source's"),
            code="failed_proof",
            where=str(folder),
            hint="Name the tokenizer's own file with --tokenizer FILE. If that changes nothing, please report it.",
        )
    return encoded


def _is_spiece(config: TokenizerConfig) -> bool:
    """Whether it is a SentencePiece model, whatever the configuration calls a ``.model`` file."""
    named = config.vocab_file is not None and config.vocab_file.suffix == ".model"
    return named or config.tokenizer_type.lower() == "spmtokenizer"
