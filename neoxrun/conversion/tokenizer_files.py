"""The tokenizer's files of a model, for its new folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from neoxrun.config.settings import TokenizerConfig
from neoxrun.conversion.configurations import end_options
from neoxrun.conversion.workplace import Workplace
from neoxrun.tokenizer import Tokenizer
from neoxrun.tokenizer.text import END_OF_DOCUMENT

GENERATION_CONFIG: Final = "generation_config.json"

# What transformers and neoxrun read next to the vocabulary, where a model has it.
_COMPANIONS: Final = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    GENERATION_CONFIG,
)
_NAMES: Final = {"hftokenizer": "tokenizer.json", "gpt2bpetokenizer": "vocab.json", "hfgpt2tokenizer": "vocab.json"}


def tokenizer_files(config: TokenizerConfig) -> dict[str, Path]:
    """The files that make up a tokenizer, by the names under which they are to be written."""
    path = config.vocab_file
    if path is None:
        return {}
    files = {_NAMES.get(config.tokenizer_type.lower(), path.name): path}
    folder = path.parent
    if path.is_dir():  # an HFGPT2Tokenizer's
        files, folder = {"vocab.json": path / "vocab.json", "merges.txt": path / "merges.txt"}, path
    elif config.merge_file is not None:
        files["merges.txt"] = config.merge_file
    return files | {name: folder / name for name in _COMPANIONS if (folder / name).is_file()}


def copy_tokenizer(work: Workplace, config: TokenizerConfig) -> TokenizerConfig:
    """Copy the files, and return the tokenizer's configuration with their new paths."""
    files = tokenizer_files(config)
    for name, path in files.items():
        work.write(name, partial(shutil.copyfile, path))
    if not files:
        return config
    kind = "GPT2BPETokenizer" if config.tokenizer_type.lower() == "hfgpt2tokenizer" else config.tokenizer_type
    merges = work.folder / "merges.txt" if "merges.txt" in files else None
    return replace(config, tokenizer_type=kind, vocab_file=work.folder / next(iter(files)), merge_file=merges)


def write_companions(work: Workplace, tokenizer: Tokenizer | None, context: int, ends: Sequence[int]) -> None:
    """What transformers reads next to a tokenizer.json, where the source had none of it.

    Args:
        work: where to write.
        tokenizer: the model's, if there is one.
        context: most tokens of a text.
        ends: ids of the tokens that end a text.
    """
    eod = None if tokenizer is None else tokenizer.eod
    if not work.has(GENERATION_CONFIG):
        work.write_json(GENERATION_CONFIG, {"_from_model_config": True, **end_options(ends)})
    if tokenizer is not None and not work.has("tokenizer_config.json"):
        names = ("bos_token", "eos_token", "unk_token") if eod is not None else ()
        content = dict.fromkeys(names, END_OF_DOCUMENT)
        kind = "PreTrainedTokenizerFast" if work.has("tokenizer.json") else "GPT2Tokenizer"
        rest = {"clean_up_tokenization_spaces": False, "model_max_length": context}
        work.write_json("tokenizer_config.json", {**content, **rest, "tokenizer_class": kind})
