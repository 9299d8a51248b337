"""The tokenizer's files of a model, for its new folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from neoxrun.config.end_ids import GENERATION_CONFIG, read_end_ids
from neoxrun.config.huggingface import read_json
from neoxrun.config.settings import TokenizerConfig
from neoxrun.config.tokenizer_names import (
    CHAT_TEMPLATE,
    MERGES,
    SIBLINGS,
    SPIECE_MODELS,
    SPIECE_TYPE,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    VOCABULARY,
    is_spiece,
)
from neoxrun.conversion.configurations import end_options
from neoxrun.conversion.workplace import Workplace
from neoxrun.errors import CheckpointError
from neoxrun.tokenizer import Tokenizer, load_tokenizer
from neoxrun.tokenizer.siblings import read_siblings
from neoxrun.tokenizer.text import END_OF_DOCUMENT

# What transformers and neoxrun read next to the vocabulary, where a model has it.
_COMPANIONS: Final = (*SIBLINGS, CHAT_TEMPLATE, GENERATION_CONFIG)
_NAMES: Final = {"hftokenizer": TOKENIZER_JSON, "gpt2bpetokenizer": VOCABULARY, "hfgpt2tokenizer": VOCABULARY}


def tokenizer_files(config: TokenizerConfig) -> dict[str, Path]:
    """The files that make up a tokenizer, by the names under which they are to be written."""
    path = config.vocab_file
    if path is None:
        return {}
    folder = path.parent
    if is_spiece(config.vocab_file, config.tokenizer_type):
        files = {path.name if path.name in SPIECE_MODELS else SPIECE_MODELS[0]: path}
    elif path.is_dir():  # an HFGPT2Tokenizer's
        files, folder = {name: path / name for name in (VOCABULARY, MERGES)}, path
    else:
        files = {_NAMES.get(config.tokenizer_type.lower(), path.name): path}
        if config.merge_file is not None:
            files[MERGES] = config.merge_file
    return files | {name: folder / name for name in _COMPANIONS if (folder / name).is_file()}


def copy_tokenizer(work: Workplace, config: TokenizerConfig) -> TokenizerConfig:
    """Copy the files, and return the tokenizer's configuration with their new paths."""
    files = tokenizer_files(config)
    for name, path in files.items():
        work.write_bytes(name, path.read_bytes())
    if not files:
        return config
    kind = "GPT2BPETokenizer" if config.tokenizer_type.lower() == "hfgpt2tokenizer" else config.tokenizer_type
    merges = work.folder / MERGES if MERGES in files else None
    return replace(
        config,
        tokenizer_type=SPIECE_TYPE if is_spiece(config.vocab_file, config.tokenizer_type) else kind,
        vocab_file=work.folder / next(iter(files)),
        merge_file=merges,
    )


def write_end_ids(work: Workplace, ends: Sequence[int]) -> None:
    """Make generation_config.json name the tokens that end a text, by their ids; written where the source had none."""
    if not work.has(GENERATION_CONFIG):
        work.write_json(GENERATION_CONFIG, {"_from_model_config": True, **end_options(ends)})
    elif ends and read_end_ids(work.folder) != tuple(ends):
        content = read_json(work.folder / GENERATION_CONFIG)
        work.write_json(GENERATION_CONFIG, content | {"eos_token_id": end_options(ends)["eos_token_id"]})


def write_tokenizer_config(work: Workplace, config: TokenizerConfig, tokenizer: Tokenizer, context: int) -> None:
    """tokenizer_config.json, where the source had none: it says of the tokenizer what it is without it.

    Args:
        work: where to write.
        config: where the source's tokenizer is.
        tokenizer: the tokenizer.
        context: most tokens of a text.
    """
    if work.has(TOKENIZER_CONFIG):
        return
    assert config.vocab_file is not None
    content = dict(tokenizer.names)
    rest: dict[str, object] = {"clean_up_tokenization_spaces": False, "model_max_length": context}
    siblings = read_siblings(config.vocab_file.parent)
    # The names of a SentencePiece model come from the model, and a class would change how it works.
    if not is_spiece(config.vocab_file, config.tokenizer_type):
        if content and siblings is not None:
            rest["tokenizer_class"] = siblings.class_name
        else:
            names = ("bos_token", "eos_token", "unk_token") if tokenizer.eod is not None else ()
            content = dict.fromkeys(names, END_OF_DOCUMENT)
            rest["tokenizer_class"] = "PreTrainedTokenizerFast" if work.has(TOKENIZER_JSON) else "GPT2Tokenizer"
    work.write_json(TOKENIZER_CONFIG, content | rest)


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
