"""Standard streams that the caller has closed, as ``>&-`` does in a shell."""

from __future__ import annotations

import fcntl
import os
import sys

from neoxrun.errors import DataError


def open_closed() -> None:
    """Put something in the place of each standard stream that is closed, here and in the programs that follow.

    Otherwise the next file to be opened would get its number, and what is meant for the stream. There is nothing to
    read from such a stdin, a stdout refuses what is written, and a stderr drops it.
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
    """Fail now rather than after the work.

    Raises:
        DataError: stdout cannot be written.
    """
    if fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise DataError("standard output is closed, and the result goes there", hint="Redirect it to a file or a pipe.")
