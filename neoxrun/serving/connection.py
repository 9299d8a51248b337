"""The way between a program and the ranks that it has started: a socket in their job's folder, which is private."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

_NAME = "engine.socket"


def listen(folder: Path) -> socket.socket:
    """A socket that waits for ``connect``."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short_name(folder) as name:
        server.bind(name)
    server.listen(1)
    return server


def accept(server: socket.socket, seconds: float) -> Connection | None:
    """The connection, for pickled objects; None if nobody connects in this time."""
    server.settimeout(seconds)
    try:
        peer, _ = server.accept()
    except TimeoutError:
        return None
    peer.setblocking(True)
    return Connection(peer.detach())


def connect(folder: Path) -> Connection:
    """Connect to the program that listens in the folder."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short_name(folder) as name:
        client.connect(name)
    return Connection(client.detach())


@contextlib.contextmanager
def _short_name(folder: Path) -> Iterator[str]:
    """The socket's path through the folder's descriptor: a socket's own path may have 107 bytes at most."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}"
    finally:
        os.close(descriptor)
