"""Compressed files, known by how they begin."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Final

from neoxrun.errors import DataError
from neoxrun.terminal.words import printable

ENDINGS: Final = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")
_ZIP: Final = b"PK\x03\x04"
_LONGEST: Final = 6


def _open_zstd(file: IO[bytes]) -> IO[bytes]:
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd"))


_OPENERS: Final[Mapping[bytes, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x28\xb5\x2f\xfd": _open_zstd,
}


@contextmanager
def decompressed(file: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """The content of a file, decompressed as it is read.

    Args:
        file: at its beginning; it can go back there.
        name: of the input, for messages.

    Raises:
        DataError: it is an archive, or it is cut short or damaged.
    """
    magic = file.read(_LONGEST)
    file.seek(0)
    if magic.startswith(_ZIP):
        raise DataError(
            f"{name} is a zip archive, or a document of an office program",
            code="not_text",
            where=name,
            hint="Unpack it first; save a table as CSV.",
        )
    try:
        opener = next((opener for start, opener in _OPENERS.items() if magic.startswith(start)), None)
        if opener is None:
            yield file
        else:
            with opener(file) as content:
                yield content
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(name, error) from None
    except OSError as error:
        if error.strerror is not None:  # the system's own
            raise
        raise _damaged(name, error) from None


def _damaged(name: str, error: Exception) -> DataError:
    return DataError(
        f"{name} is compressed, and cut short or damaged: {printable(str(error))}",
        code="bad_input",
        where=name,
        hint="Copy or download it again.",
    )
