"""Locks between processes, which the system frees when their holder ends, however that happens. No torch.

A folder is locked itself. What does not exist yet, or is replaced while it is held, is locked by a file of its own,
which names the holder; a file that a killed process has left locks nothing.
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


@contextmanager
def held_folder(path: Path) -> Iterator[bool]:
    """Hold a folder that exists.

    Yields:
        Whether it is held: not every file system has locks.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            raise
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


@contextmanager
def held_file(path: Path) -> Iterator[None]:
    """Hold a lock file, which is made for it and removed at the end.

    A program that replaces this one (exec) holds it, too, and calls ``remove_lock`` at its end.

    Raises:
        BlockingIOError: another process holds it; see ``holder``.
        OSError: it cannot be made, or there are no locks.
    """
    descriptor = _locked(path)
    try:
        yield
    finally:
        remove_lock(path)  # while it is still held: no other process can have locked this file
        os.close(descriptor)


def remove_lock(path: Path | None) -> None:
    """Remove the file of a lock that this process still holds; None: there is none."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def holder(path: Path) -> str:
    """Who holds a lock file, in words."""
    try:
        found = re.fullmatch(r"(\d{1,10}) ([\w.-]{1,64})", path.read_text(encoding="ascii", errors="replace").strip())
    except OSError:
        found = None
    return f"process {found[1]} on {found[2]}" if found else "its process is not known"


def _locked(path: Path) -> int:
    """The descriptor that holds a lock; programs that replace this one inherit it.

    Raises:
        OSError: as ``held_file``.
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


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
