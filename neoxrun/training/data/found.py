"""What is noted of a run's files, so that a run which continues it notices other ones. No torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from neoxrun.config.training import DataConfig
from neoxrun.errors import DataError
from neoxrun.training.data.corpus import Corpus
from neoxrun.training.data.indexed import indexed_prefix, with_ending
from neoxrun.training.data.prepare import PreparedData
from neoxrun.training.options import DataFile

_BLOCK: Final = 1 << 20
_BLOCKS: Final = 256
"""Parts of a .bin that are looked at; all of one that is no larger than so many blocks."""


def found_files(data: DataConfig, prepared: PreparedData) -> tuple[tuple[DataFile, ...], tuple[DataFile, ...]]:
    """The files that are trained on, and those that are evaluated where they are other ones.

    Args:
        data: as for ``prepare_data``.
        prepared: what that found.

    Raises:
        DataError: a file of packed data cannot be read.
    """
    return _of_all(prepared.train), _of_all(prepared.valid) if data.valid else ()


def _of_all(corpora: Sequence[Corpus]) -> tuple[DataFile, ...]:
    return tuple(
        DataFile(
            str(name),
            len(index.sizes),
            int(index.sizes.sum()),
            # The name of a cache ends with a digest of the text and of what made tokens of it.
            index.prefix.name if indexed_prefix(name) is None else _digest(index.prefix),
        )
        for corpus in corpora
        for name, index in zip(corpus.names, corpus.indexes, strict=True)
    )


def _digest(prefix: Path) -> str:
    """SHA-256 of a .idx, and of the size and blocks of the .bin: 100 GB of that would take minutes."""
    path = with_ending(prefix, ".bin")
    try:
        digest = hashlib.sha256()
        with with_ending(prefix, ".idx").open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(str(size).encode())
            for begin in range(0, size, max(_BLOCK, size // _BLOCKS)):
                file.seek(begin)
                digest.update(file.read(_BLOCK))
    except OSError as error:
        raise DataError(
            f"{error.filename or path} cannot be read: {error.strerror}",
            code="unreadable_file",
            where=str(error.filename or path),
        ) from error
    return digest.hexdigest()
