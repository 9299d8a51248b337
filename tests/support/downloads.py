"""What the tests of downloads share: impatient options, bytes to serve, and a fetch that says little."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from neoxrun.download.fetch import fetch_files
from neoxrun.download.http import HttpOptions
from neoxrun.download.remote import Arrival, RemoteFile
from support.faulty_server import FaultyServer

NAMES = ["tokenizer.json", "latest", *(f"step/layer_{number:02}.pt" for number in range(8))]

IMPATIENT = HttpOptions(tries=4, connect_timeout=5, stall_timeout=0.4, backoff=0.01, longest_wait=3)


def data_of(size: int, seed: int = 0) -> bytes:
    """Bytes that do not repeat."""
    return random.Random(seed).randbytes(size)


def server_of_ten() -> FaultyServer:
    """Serves NAMES, each file larger than the one before."""
    return FaultyServer({name: data_of(40_000 + 10_000 * at, at) for at, name in enumerate(NAMES)})


def check_arrived(server: FaultyServer, folder: Path) -> None:
    """All files of the server are in the folder, and nothing else."""
    assert names_in(folder) == set(server.files)
    for name, data in server.files.items():
        assert (folder / name).read_bytes() == data


ONE = "layers/one.bin"
ONE_DATA = data_of(300_000)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def remote(server: FaultyServer, name: str, *, size: bool = True, sha256: bool = True) -> RemoteFile:
    """The file as the server has it now."""
    data = server.files[name]
    return RemoteFile(name, (server.link(name),), len(data) if size else None, digest(data) if sha256 else None)


def fetch_one(file: RemoteFile, folder: Path, options: HttpOptions = IMPATIENT, **more: Any) -> Arrival:
    (arrival,) = fetch_files([file], folder, jobs=1, options=options, show=False, **more)
    return arrival


def fetch_and_check(server: FaultyServer, folder: Path, file: RemoteFile | None = None, **more: Any) -> None:
    """Fetch ONE, and check everything that is said of it and everything that is left."""
    arrival = fetch_one(file or remote(server, ONE), folder, **more)
    data = server.files[ONE]
    assert (folder / ONE).read_bytes() == data
    assert (arrival.size, arrival.sha256, arrival.path) == (len(data), digest(data), folder / ONE)
    assert names_in(folder) == {ONE}


def names_in(folder: Path) -> set[str]:
    """Everything in a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
