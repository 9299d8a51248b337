"""Small data to train on: packed documents, files of texts, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neoxrun.config.training import DataConfig
from neoxrun.training.data.indexed import with_ending, write_index
from neoxrun.training.data.prepare import PreparedData, prepare_data
from neoxrun.training.rows import Rows
from support.paths import DEMO
from support.tiny_models import demo_tokenizer
from support.tokenizer_files import hugging_face

UINT16 = np.dtype("<u2")
INT32 = np.dtype("<i4")
VOCABULARY = 4096
"""Ids of the demo's model are below it."""


def write_packed(
    prefix: Path, documents: Iterable[Sequence[int]], dtype: np.dtype[np.uint16] | np.dtype[np.int32] = UINT16
) -> Path:
    """PREFIX.bin and PREFIX.idx of documents of token ids."""
    known = [list(document) for document in documents]
    np.array([token for document in known for token in document], dtype).tofile(with_ending(prefix, ".bin"))
    write_index(with_ending(prefix, ".idx"), [len(document) for document in known], dtype)
    return prefix


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(data: DataConfig, cache: Path, vocab_size: int = VOCABULARY, *, show: bool = False) -> PreparedData:
    """``prepare_data`` with the demo's tokenizer, which has no chat template."""
    files = hugging_face(DEMO / "tokenizer.json")
    return prepare_data(data, demo_tokenizer(), files, vocab_size, cache, show=show)


def ids_of(rows: Rows) -> list[list[int]]:
    """The tokens of all rows."""
    return [rows[number].ids.tolist() for number in range(len(rows))]


def learned_of(rows: Rows) -> list[list[bool]]:
    """What is learned of all rows."""
    return [rows[number].learned.tolist() for number in range(len(rows))]
