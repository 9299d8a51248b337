"""Checks that a file on disk is complete and harmless from its own contents, without a published checksum.

A truncated, damaged or wrong weights file is found before any model is built. Nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from neoxrun.checkpoint.content import (
    ARCHIVE,
    LEGACY,
    NOT_TORCH,
    check_archive,
    check_archive_pickle,
    check_legacy_pickles,
    damaged_file,
    is_file_name,
    read_safetensors_header,
    refuse_other_content,
)
from neoxrun.checkpoint.huggingface_files import numbered_files
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
_LARGEST_JSON = 256_000_000

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
            read_safetensors_header(path)
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
    """The weights files that are missing in a folder, by its index, or by their numbers where there is no index.

    A path to another folder counts as missing. An index that cannot be read names none: the check of the index itself
    reports it.
    """
    for whole, index in _INDEXES:
        if (folder / whole).is_file():
            return []
        if (folder / index).is_file():
            try:
                shards = {str(shard) for shard in json.loads((folder / index).read_bytes())["weight_map"].values()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                return []
            return sorted(
                printable(shard) for shard in shards if not (is_file_name(shard) and (folder / shard).is_file())
            )
    try:
        shards = set(numbered_files(folder, [path.name for path in folder.iterdir()]))
    except CheckpointError:  # of two models: either may be complete
        return []
    return sorted(shard for shard in shards if not (folder / shard).is_file())


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
    if start.startswith(ARCHIVE):
        check_archive(path)
        check_archive_pickle(path)
        _check_sums(path, progress)
    elif start.startswith(LEGACY):
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
