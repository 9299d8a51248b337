"""Standard streams that the caller has closed, as ``>&-`` does in a shell."""

from __future__ import annotations

import fcntl
import os
import sys

from neoxrun.errors import DataError


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
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
