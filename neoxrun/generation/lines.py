"""Lines of output, each handed to the system as soon as it is there. No torch."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import IO, Final

from neoxrun.errors import DataError, UsageError, writing_code

OTHER_OUTPUT: Final = "Give another file with -o."
"""The hint where a file cannot be used."""

AGAIN: Final = "Give the same command again."
KEPT: Final = "Finished records are kept; continue with --resume."
"""The hints of a run that ended early: without a file of records, and with one."""

_BEGINNING: Final = b'{"id": '


FileState = tuple[int, int]
"""A file's size in bytes, and when it was last written, in ns: other content has another one."""


def state_of(file: Path) -> FileState | None:
    """The state of a file; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def kept_hint(kept: str, file: Path, replaced: FileState | None = None) -> str:
    """The hint of a run that ended early: ``kept`` if its ``file`` has records by now.

    Not those of the file that the run replaces, which is as ``replaced`` until the model is loaded.
    """
    state = state_of(file)
    return kept if state is not None and state[0] and state != replaced else AGAIN


def output_of(name: str) -> Path | None:
    """The file that ``-o`` names; None is stdout, which the ranks keep under another descriptor than 1."""
    return None if name in ("-", "/dev/stdout", "/dev/fd/1") else Path(name)


def check_output(path: Path, source: str | None, needs_file: str | None) -> None:
    """Refuse an output that would be in the way later.

    Args:
        path: the output.
        source: the input, if it has a name.
        needs_file: the option or the form that no pipe or device can have, if there is one.

    Raises:
        UsageError: the output is also the input, or is not the regular file that it has to be.
        DataError: the file cannot be written.
    """
    if source and path.exists() and Path(source).exists() and path.samefile(source):
        raise UsageError(
            f"the output {path} is also the input",
            code="conflicting_options",
            hint="Name another file with -o.",
        )
    if needs_file and path.exists() and not path.is_file():
        raise UsageError(
            f"{path} is not a regular file, which {needs_file} needs",
            code="invalid_value",
            hint="Name a file with -o FILE.",
        )
    check_writable(path)


def check_writable(path: Path) -> None:
    """Fail now rather than after the model is loaded.

    Raises:
        DataError: the file cannot be written.
    """
    if path.is_fifo():  # opening it would wait for its reader, and closing it would send the reader away
        if not os.access(path, os.W_OK):
            raise unwritable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
        return
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise unwritable(path, error) from None
    if not existed:
        path.resolve().unlink()  # a link that named no file yet stays


def refuse_other_lines(path: Path) -> None:
    """Refuse to replace a file that no earlier run has written: all records begin alike.

    Raises:
        DataError: it holds something else.
    """
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_BEGINNING))
    except OSError as error:
        raise unwritable(path, error) from None
    if beginning and beginning != _BEGINNING:
        raise DataError(
            f"{path} exists, and does not hold records",
            code="other_file",
            where=str(path),
            hint="Name another file with -o, or give --overwrite to replace this one.",
        )


class LineWriter:
    """Appends lines to a file, or to an open stream.

    Args:
        path: the file; None writes to ``stream``.
        stream: used where ``path`` is None.
        keep: bytes of the file to keep; the rest goes.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path | None, stream: IO[str], keep: int) -> None:
        self._path = path
        self._descriptor = stream.fileno()
        if path is None:
            return
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.truncate(path, keep) if path.is_file() else None
        except OSError as error:
            raise unwritable(path, error) from None

    def write_line(self, line: str) -> None:
        """Write one line and hand it to the system, so that it outlives this process.

        Raises:
            DataError: the disk is full, for example; the lines before this one are whole.
            BrokenPipeError: the reader of a pipe is gone.
        """
        self.write_text(f"{line}\n")

    def write_text(self, text: str) -> None:
        """As ``write_line``, without the end of the line."""
        left = memoryview(text.encode())
        written = 0
        try:
            while left:
                count = os.write(self._descriptor, left)
                left = left[count:]
                written += count
        except BrokenPipeError:
            raise
        except OSError as error:
            if written:
                self._take_back(written)
            raise unwritable(self._path, error) from None

    def _take_back(self, count: int) -> None:
        """Drop the part of a line that was written before the disk was full."""
        with contextlib.suppress(OSError):  # it is not a file
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - count)

    def close(self) -> None:
        """Close the file; a stream stays open."""
        if self._path is not None:
            os.close(self._descriptor)


def unwritable(path: Path | None, error: OSError) -> DataError:
    """The error for an output that the system does not take."""
    if path is None:
        code = writing_code(error)
        hint = "Make room on the disk that it is redirected to, or name a file on another with -o FILE."
        return DataError(
            f"standard output cannot be written: {error.strerror}",
            code=code,
            hint=hint if code == "disk_full" else None,
        )
    hint = OTHER_OUTPUT
    if path.is_file():
        hint += " Records written so far are kept; --resume continues with them."
    return DataError(f"{path} cannot be written: {error.strerror}", code=writing_code(error), hint=hint)
