"""Folders to convert, and what a conversion leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.conversion.configurations import neox_options, yaml_text
from neoxrun.conversion.options import ConvertOptions
from support.checkpoints import random_model
from support.paths import DEMO

TOKENIZER = {"tokenizer_type": "HFTokenizer", "vocab_file": str(DEMO / "tokenizer.json")}
"""Options that name a tokenizer of 2048 entries."""


def make_folder(
    folder: Path,
    config: ModelConfig,
    *,
    tp: int = 1,
    rows: int = 64,
    dtype: torch.dtype = torch.float32,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """A GPT-NeoX folder with random weights, and its configuration ``model.yml``."""
    save_layer_files(random_model(config, rows, dtype=dtype), folder, tp=tp, config=config, tag="global_step7")
    text = yaml_text(neox_options(config, "fp32") | {"load": "."} | dict(options or {}))
    (folder / "model.yml").write_text(text)
    return folder


def order(
    source: Path,
    target: Path,
    to: Literal["neox", "huggingface"],
    *,
    configuration: Path | None = None,
    tp: int = 1,
    dtype: Precision | None = None,
    shard_size: int = 10**9,
) -> ConvertOptions:
    """A conversion; the configuration is the one that the source's folder has, or another."""
    found = configuration or next(path for path in (source / "model.yml", source / "config.yml") if path.exists())
    settings = load_settings([str(found)], checkpoint=str(source))
    return ConvertOptions(settings, target, to, tp, dtype, shard_size, show_progress=False)


def read_receipt(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "neoxrun.receipt.json").read_text())
    return content


def same_files(first: Path, second: Path, pattern: str) -> bool:
    """Whether both folders have the same files of a pattern, byte for byte; at least one."""
    names = [path.relative_to(first) for path in sorted(first.glob(pattern))]
    assert names
    assert names == [path.relative_to(second) for path in sorted(second.glob(pattern))]
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
