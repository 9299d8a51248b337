"""Checks that a file on disk is complete and harmless from its own contents, without a published checksum.

A truncated, damaged or wrong weights file is found before any model is built. Nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from neoxrun.checkpoint.content import (
    NOT_TORCH,
    check_archive,
    check_archive_pickle,
    check_legacy_pickles,
    damaged_file,
    refuse_other_content,
)
from neoxrun.errors import CheckpointError
from neoxrun.terminal.words import printable

ARCHIVES = (".pt", ".pth", ".bin")
"""Endings of files written by torch.save; every byte of them is read for the check."""

WEIGHTS = (*ARCHIVES, ".safetensors")
"""Endings of weights files."""

_INDEXES = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""The name of weights in one file, and of the index of weights in several; in the order to look for them."""

_BLOCK = 1 << 20
_LARGEST_HEADER = 100_000_000  # of a safetensors file, as in its own library
_LARGEST_JSON = 256_000_000

_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

Progress = Callable[[int], None]
"""Called with the number of bytes that were read since the last call."""


def prove_file(path: Path, name: str, progress: Progress | None = None) -> None:
    """Check a file as far as the type that its name ends in allows.

    Args:
        path: where its bytes are; for a part file this is not its name.
        name: the file's name.
        progress: called as the bytes of an archive are read.

    ========================  ================================================================================
    .pt .pth .bin             every byte, by the CRC-32 of the archive; the names that the pickle would look up
    .safetensors              the header, and that the tensors fill the file without gaps
    .json                     that it is JSON
    .parquet                  the mark at both ends, and that the footer lies within the file
    all of these              that it is not empty, a web page or a Git LFS pointer
    ========================  ================================================================================

    Raises:
        CheckpointError: the file is not what its name says; the message gives the reason.
    """
    ending = Path(name).suffix.lower()
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if ending in (*WEIGHTS, ".json", ".parquet"):
            refuse_other_content(path, start)
        if ending == ".safetensors":
            _safetensors(path)
        elif ending in WEIGHTS:
            _torch(path, start, progress)
        elif ending == ".json":
            _json(path)
        elif ending == ".parquet":
            _parquet(path)
    except CheckpointError as error:
        message = error.message.replace(path.name, Path(name).name)
        raise CheckpointError(message, code=error.code, where=error.where, hint=error.hint) from error
    except OSError as error:
        raise CheckpointError(
            f"{name} cannot be read: {error.strerror}",
            code="unreadable_checkpoint",
            where=str(path),
        ) from error


def missing_shards(folder: Path) -> list[str]:
    """The weights files that the index in a folder names and that are missing.

    An index that cannot be read names none: the check of the index itself reports it.
    """
    for whole, index in _INDEXES:
        if (folder / whole).is_file():
            return []
        if (folder / index).is_file():
            try:
                shards = {str(shard) for shard in json.loads((folder / index).read_bytes())["weight_map"].values()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                return []
            return sorted(printable(shard) for shard in shards if not (folder / shard).is_file())
    return []


def sha256_of(path: Path, progress: Progress | None = None) -> str:
    """SHA-256 of a file, in lower-case hexadecimal.

    Raises:
        CheckpointError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            block = memoryview(bytearray(_BLOCK))
            while count := file.readinto(block):
                digest.update(block[:count])
                if progress is not None:
                    progress(count)
    except OSError as error:
        raise CheckpointError(
            f"{path.name} cannot be read: {error.strerror}",
            code="unreadable_checkpoint",
            where=str(path),
        ) from error
    return digest.hexdigest()


def git_blob_name(path: Path) -> str:
    """Git's hash of a file's contents, which is all that the hub publishes for small files."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _torch(path: Path, start: bytes, progress: Progress | None) -> None:
    if start.startswith(b"PK\x03\x04"):
        check_archive(path)
        check_archive_pickle(path)
        _check_sums(path, progress)
    elif start.startswith(b"\x80"):
        check_legacy_pickles(path)
    else:
        raise damaged_file(path, NOT_TORCH)


def _check_sums(path: Path, progress: Progress | None) -> None:
    """Read every record of an archive; zipfile compares the CRC-32 at the end of each."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                with archive.open(info) as record:
                    while block := record.read(_BLOCK):
                        if progress is not None:
                            progress(len(block))
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise damaged_file(path, f"is damaged: {error}") from error


def _safetensors(path: Path) -> None:
    def damaged(why: str) -> CheckpointError:
        return damaged_file(path, f"is not a complete safetensors file: {why}")

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LARGEST_HEADER + 1
        if length > _LARGEST_HEADER:
            raise damaged("it has no header")
        if 8 + length > size:
            raise damaged("it ends within its header")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            spans = sorted(_span(name, entry) for name, entry in header.items())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise damaged(f"its header cannot be read ({error})") from error
    end = 0
    for first, last, name in spans:
        if first != end:
            raise damaged(f"the bytes of {name} do not begin where those of the tensor before end")
        end = last
    if 8 + length + end != size:
        raise damaged(f"its tensors need {8 + length + end:,} bytes, and it has {size:,}")


def _span(name: str, entry: dict[str, object]) -> tuple[int, int, str]:
    """Where the bytes of a tensor begin and end.

    Raises:
        ValueError, TypeError, KeyError: the entry contradicts itself.
    """
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError(f"{name} has no shape or no data offsets")
    if not all(type(number) is int and number >= 0 for number in [*shape, *offsets]):
        raise ValueError(f"{name} has a size or an offset that is not a number")
    first, last = offsets
    # For a type newer than this table only the offsets can be checked.
    bits = _BITS.get(str(dtype))
    if last < first or (bits is not None and (last - first) * 8 != math.prod(shape) * bits):
        raise ValueError(f"{name} has {last - first} bytes, which does not match its shape and type")
    return first, last, name


def _json(path: Path) -> None:
    if path.stat().st_size > _LARGEST_JSON:
        return
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged_file(path, f"is not JSON: {error}") from error


def _parquet(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(max(0, size - 8))
        end = file.read(8)
    # PAR1, the data, the footer, its length in four bytes, PAR1.
    whole = size >= 12 and start == end[4:] == b"PAR1" and struct.unpack("<I", end[:4])[0] <= size - 12
    if not whole:
        raise damaged_file(path, "is not a complete Parquet file")
