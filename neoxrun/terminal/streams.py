"""Standard streams: those that the caller has closed, as ``>&-`` does in a shell, and errors of writing to stdout."""

from __future__ import annotations

import fcntl
import io
import os
import sys
from typing import IO, Any

from neoxrun.errors import DataError, writing_code


class _Output(io.FileIO):
    """A standard output whose errors say what cannot be written."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            _drop(self.fileno())
            raise DataError(f"standard output cannot be written: {error.strerror}", code=writing_code(error)) from error


def output_stream(descriptor: int) -> IO[str]:
    """A stream to standard output, whatever its descriptor is; it raises ``DataError`` where writing fails.

    ``BrokenPipeError`` stays: that the reader has gone is no error.
    """
    return io.TextIOWrapper(io.BufferedWriter(_Output(descriptor, "w")), encoding="utf-8")


def name_stdout() -> None:
    """Have ``sys.stdout`` raise errors like those of ``output_stream``, unless someone has replaced it."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        raw = _Output(sys.stdout.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            line_buffering=sys.stdout.line_buffering,
        )


def open_closed() -> None:
    """Open a substitute for each standard stream that is closed, for this process and the programs that it becomes.

    Otherwise the next file to be opened would get the stream's number, and receive what is written to the stream. The
    substitute for stdin is empty, the one for stdout refuses what is written, and the one for stderr drops it.
    """
    for number, access in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, access), True)  # open takes the lowest number that is free
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, "r", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def check_stdout() -> None:
    """Fail before the work rather than after it.

    Raises:
        DataError: stdout cannot be written.
    """
    if fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise DataError(
            "standard output is closed, and the result goes there",
            code="unwritable_file",
            hint="Redirect it to a file or a pipe.",
        )


def drop_stdout() -> None:
    """Write nothing more to stdout, not even Python's buffer, after a write has failed."""
    _drop(sys.stdout.fileno())


def _drop(descriptor: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
