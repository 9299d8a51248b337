"""The source of a conversion, opened: its files, its network, its tokenizer, and what its tensors become."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from neoxrun.checkpoint.adapter import open_configured_adapter
from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.checkpoint.load import read_vocab_rows
from neoxrun.checkpoint.source import LayerSource, Shard
from neoxrun.config.huggingface import CONFIG_JSON, READ_KEYS, read_config_json, read_json
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import FIRST_LAYER, VOCABULARY, Parameter, TensorKey, parameters
from neoxrun.conversion.folding import find_final_norm, merge_for_files
from neoxrun.conversion.options import RECEIPT_NAME, ConvertOptions
from neoxrun.conversion.shares import Division, stored_dtypes
from neoxrun.model.dtypes import DTYPES
from neoxrun.terminal.log import log
from neoxrun.tokenizer import Tokenizer, load_tokenizer

_STEP: Final = re.compile(r"global_step\d+")


@dataclass(frozen=True)
class OpenedSource:
    """What is converted.

    Attributes:
        division: what its tensors become.
        checkpoint: its files.
        config: its network.
        table: every tensor of the model, as it is written.
        dtypes: number format of each tensor to be written.
        rows: of the vocabulary that is written, before it is padded for the target's ranks.
        own_rows: the same without the zero rows that an earlier conversion added, as its receipt says.
        tokenizer: its tokenizer, where one is named.
        tag: name of the folder for GPT-NeoX files, ``global_step<N>``.
        new_names: whether the MLP's matrices have the names that GPT-NeoX has given them since September 2024.
        words: keys of a config.json that GPT-NeoX has no options for, from the source's own or from the receipt of the
            conversion that made it.
    """

    division: Division
    checkpoint: Checkpoint
    config: ModelConfig
    table: Mapping[TensorKey, Parameter]
    dtypes: Mapping[TensorKey, torch.dtype]
    rows: int
    own_rows: int
    tokenizer: Tokenizer | None
    tag: str
    new_names: bool
    words: Mapping[str, Any]


def open_source(options: ConvertOptions) -> OpenedSource:
    """Find the source's files, and read their headers.

    Raises:
        CheckpointError: the source is missing, damaged or not that of its configuration.
        DataError: its tokenizer cannot be read.
    """
    settings = options.settings
    checkpoint = find_configured_checkpoint(settings)
    for warning in checkpoint.warnings:
        log.warning(warning)
    stored_rows = read_vocab_rows(checkpoint, settings.model)
    tokenizer = None
    if settings.tokenizer.vocab_file is None:
        log.warning("no tokenizer was found, so none is written: give it with --tokenizer FILE")
    else:
        tokenizer = load_tokenizer(settings.tokenizer)
    layers = LayerSource(checkpoint, settings.model)
    earlier = _read_receipt(checkpoint.folder)
    own_rows = _own_rows(earlier, layers, stored_rows)
    rows = own_rows if options.kind == "huggingface" else stored_rows
    table = parameters(settings.model, rows)
    if checkpoint.kind == "huggingface":
        tag, new_names = _names_before(earlier)
        content = read_json(checkpoint.folder / CONFIG_JSON)
        words = {key: content[key] for key in read_config_json(checkpoint.folder).passed_over}
    else:
        tag = checkpoint.tag if _STEP.fullmatch(checkpoint.tag) else "global_step0"
        new_names = any("mlp.linear1." in stored.name for stored in layers.read_layer(FIRST_LAYER)[0].values())
        found = earlier.get("config_json")
        words = {key: found[key] for key in sorted(found.keys() - READ_KEYS)} if isinstance(found, dict) else {}
    dtypes = stored_dtypes(layers, table)
    if options.dtype is not None:
        dtypes = dict.fromkeys(table, DTYPES[options.dtype])
    merge = merge_for_files(settings.model, settings.merge)
    adapter = open_configured_adapter(settings)
    folds = merge == "fold" and (checkpoint.source_tp != options.tp or adapter is not None)
    final = find_final_norm(layers, dtypes, folds=folds)
    division = Division(checkpoint, settings.model, table, options.tp, merge, final, adapter, stored_rows - rows)
    return OpenedSource(
        division, checkpoint, settings.model, table, dtypes, rows, own_rows, tokenizer, tag, new_names, words
    )


def _read_receipt(folder: Path) -> dict[str, Any]:
    """The receipt of the conversion that made a folder of weights, or the one above it; empty where there is none."""
    for place in (folder, folder.parent):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            content = json.loads((place / RECEIPT_NAME).read_text(encoding="utf-8"))
            if isinstance(content, dict):
                return content
    return {}


def _own_rows(receipt: Mapping[str, Any], layers: LayerSource, rows: int) -> int:
    """The rows of a vocabulary of ``rows`` without those that the conversion of a receipt added, if they are zeros."""
    if layers.checkpoint.kind == "huggingface":
        return rows
    with contextlib.suppress(LookupError, TypeError):
        own = receipt["vocabulary"]["rows"]
        added = [part for layer in _vocabulary_layers(layers) for part in _rows_from(own, layers.read_layer(layer))]
        if 0 < own < rows and not any(bool(part.any()) for part in added):
            return int(own)
    return rows


def _vocabulary_layers(layers: LayerSource) -> list[int]:
    return [0] if layers.config.tie_embeddings else [0, layers.config.num_layers + 4]


def _rows_from(first: int, shards: Sequence[Shard]) -> list[Tensor]:
    """What the ranks hold of the vocabulary's rows from ``first`` on."""
    found: list[Tensor] = []
    start = 0
    for tensor in (shard[name].tensor for shard in shards for name in VOCABULARY & shard.keys()):
        found.append(tensor[max(0, first - start) :])
        start += len(tensor)
    return found


def _names_before(receipt: Mapping[str, Any]) -> tuple[str, bool]:
    """The tag and the kind of names that a Hugging Face folder's weights had as GPT-NeoX files."""
    with contextlib.suppress(LookupError, TypeError):
        tag, new_names = receipt["source"]["tag"], receipt["source"]["new_names"]
        if _STEP.fullmatch(tag):
            return tag, bool(new_names)
    return "global_step0", True
