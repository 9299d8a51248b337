"""GPT-NeoX's and Megatron's packed data: tokens in PREFIX.bin, where each document is in PREFIX.idx. No torch.

The tokens are read by ``training.data.tokens``. Sizes are read here, for they say how long a run is before anything is
loaded, and because megatron-core only asserts what is checked here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from neoxrun.errors import DataError

_MAGIC: Final = b"MMIDIDX\x00\x00"
_OLD_MAGIC: Final = b"TNTIDX\x00\x00"  # data_impl "lazy" and "cached"
_HEADER: Final = np.dtype([("version", "<u8"), ("kind", "u1"), ("sequences", "<u8"), ("documents", "<u8")])
# Megatron's codes of the integers; 6 and 7 are floating-point numbers.
_KINDS: Final = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_SMALL: Final = 65_500
"""Vocabularies below it are stored in 16 bits (GPT-NeoX's indexed_dataset.py, ``best_fitting_dtype``)."""


@dataclass(frozen=True)
class Index:
    """What a .idx says.

    Attributes:
        prefix: the path without ``.idx``.
        item: bytes of a token.
        sizes: int32, tokens of each document (Megatron's "sequences", which GPT-NeoX takes for documents).
        starts: int64, bytes in the .bin before each document.
    """

    prefix: Path
    item: int
    sizes: NDArray[np.int32]
    starts: NDArray[np.int64]


def indexed_prefix(path: Path) -> Path | None:
    """The prefix of packed data that a path names with or without an ending; None where it names something else."""
    if path.suffix in (".bin", ".idx"):
        return path.with_suffix("")
    return path if not path.is_file() and with_ending(path, ".idx").is_file() else None


def with_ending(prefix: Path, ending: str) -> Path:
    """A file of packed data; a prefix may have dots in it."""
    return prefix.with_name(prefix.name + ending)


def read_index(prefix: Path) -> Index:
    """Read a .idx, and check that the .bin has all that it names.

    Raises:
        DataError: one of the files is missing, unreadable, of another kind, or damaged.
    """
    path = with_ending(prefix, ".idx")
    head = len(_MAGIC) + _HEADER.itemsize
    try:
        with path.open("rb") as file:
            magic, header = file.read(len(_MAGIC)), file.read(_HEADER.itemsize)
        content = np.memmap(path, mode="r") if len(header) == _HEADER.itemsize else None
        available = with_ending(prefix, ".bin").stat().st_size
    except FileNotFoundError as error:
        raise DataError(
            f"the file {error.filename} does not exist",
            code="missing_file",
            where=str(prefix),
            hint="Packed data are two files, PREFIX.bin and PREFIX.idx, and are named by PREFIX.",
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", code="unreadable_file", where=str(path)) from None
    if magic.startswith(_OLD_MAGIC):
        raise _unusable(path, "is of data_impl lazy or cached", "Pack the texts again, with --dataset-impl mmap.")
    if magic != _MAGIC:
        raise _unusable(path, "is not an index of packed data")
    if content is None:
        raise _unusable(path, "is cut short")
    version, kind, sequences, documents = np.frombuffer(header, _HEADER)[0].tolist()
    if version != 1 or kind not in _KINDS:
        raise _unusable(path, f"has version {version} and numbers of kind {kind}, which are not those of token ids")
    if content.size < head + sequences * 12 + documents * 8:
        raise _unusable(path, "is cut short")
    item = np.dtype(_KINDS[kind]).itemsize
    sizes = np.frombuffer(content, "<i4", sequences, head)
    starts = np.frombuffer(content, "<i8", sequences, head + sizes.nbytes)
    ends = starts + sizes.astype(np.int64) * item
    if sequences and (sizes.min() < 0 or starts.min() < 0 or ends.max() > available):
        raise _unusable(path, f"names tokens that {with_ending(prefix, '.bin')} does not have")
    return Index(prefix, item, sizes, starts)


def _unusable(path: Path, why: str, hint: str = "Copy both files again, or pack the texts again.") -> DataError:
    return DataError(f"{path} {why}", code="bad_input", where=str(path), hint=hint)


def token_type(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.int32]:
    """The numbers in which GPT-NeoX stores the ids of a vocabulary."""
    return np.dtype("<u2") if vocab_size < _SMALL else np.dtype("<i4")


def write_index(path: Path, sizes: Iterable[int], dtype: np.dtype[np.uint16] | np.dtype[np.int32]) -> None:
    """Write a .idx, to disk, for documents that follow one another in the .bin, each of one sequence."""
    lengths = np.fromiter(sizes, np.int64)
    ends = np.cumsum(lengths)
    kind = next(code for code, name in _KINDS.items() if np.dtype(name) == dtype)
    with path.open("wb") as file:
        file.write(_MAGIC)
        np.array([(1, kind, len(lengths), len(lengths) + 1)], _HEADER).tofile(file)
        lengths.astype("<i4").tofile(file)
        ((ends - lengths) * dtype.itemsize).astype("<i8").tofile(file)
        np.arange(len(lengths) + 1, dtype="<i8").tofile(file)
        file.flush()
        os.fsync(file.fileno())
