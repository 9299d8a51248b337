"""A lock on an output file, so that no two runs write to it. No torch.

The lock is a file of its own next to the output, ``.NAME.lock``: the output does not exist at first, and is replaced
while a run continues it. The system frees the lock when the process that holds it ends, however that happens; a file
that a killed run has left locks nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neoxrun.errors import DataError


def lock_file(output: Path) -> Path:
    """The file that locks an output; next to the file itself where the output is a link."""
    target = output.resolve()
    return target.with_name(f".{target.name}.lock")


@contextmanager
def output_lock(output: Path | None) -> Iterator[None]:
    """Hold an output file, from before its records are looked at.

    A program that replaces this one (``launcher.run_job``) holds it, too, and calls ``remove_lock`` at its end. A
    stream or a device needs no lock, and on a file system without locks there is none.

    Args:
        output: the file; None is stdout.

    Raises:
        DataError: another run holds it.
    """
    if output is None or (output.exists() and not output.is_file()):
        yield
        return
    path = lock_file(output)
    try:
        descriptor = _locked(path)
    except BlockingIOError:
        raise DataError(
            f"another run is writing to {output} ({_holder(path)})",
            code="output_in_use",
            where=str(output),
            hint="Wait for it to end, or name another file with -o.",
        ) from None
    except OSError:  # no locks here; or no such folder, which whoever opens the output will say
        yield
        return
    try:
        yield
    finally:
        remove_lock(path)
        os.close(descriptor)


def remove_lock(path: Path | None) -> None:
    """Remove the file of a lock that this process still holds; None: there is none."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _locked(path: Path) -> int:
    """The descriptor that holds a lock; programs that replace this one inherit it.

    Raises:
        OSError: another process holds it (BlockingIOError), or there can be none.
    """
    while True:
        existed = path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have removed the file between these two steps; then this lock protects nothing.
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
                os.set_inheritable(descriptor, True)
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:
            os.close(descriptor)
            if not existed:
                remove_lock(path)
            raise
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        found = re.fullmatch(r"(\d{1,10}) ([\w.-]{1,64})", path.read_text(encoding="ascii", errors="replace").strip())
    except OSError:
        found = None
    return f"process {found[1]} on {found[2]}" if found else "its process is not known"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
