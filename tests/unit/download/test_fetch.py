"""Many files: one program a folder, room on the disk, and what is shown meanwhile."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from neoxrun.download import fetch as fetching
from neoxrun.download.fetch import fetch_files, folder_lock
from neoxrun.download.remote import LOCK_NAME, RemoteFile
from neoxrun.errors import CheckpointError, DataError, NetworkError, UsageError
from support.downloads import IMPATIENT, NAMES, check_arrived, digest, names_in, remote, server_of_ten
from support.faulty_server import Fault, FaultyServer


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with server_of_ten() as server:
        yield server


def test_all_files_largest_first(server: FaultyServer, tmp_path: Path) -> None:
    files = [remote(server, name) for name in NAMES]
    arrivals = fetch_files(files, tmp_path / "new" / "folder", jobs=1, options=IMPATIENT, show=False)
    check_arrived(server, tmp_path / "new" / "folder")
    assert [arrival.name for arrival in arrivals] == NAMES
    assert [request.path for request in server.requests] == NAMES[::-1]
    again = fetch_files(files, tmp_path / "new" / "folder", jobs=8, options=IMPATIENT, show=False)
    assert [(arrival.url, arrival.sha256) for arrival in again] == [(None, file.sha256) for file in files]
    assert len(server.requests) == len(NAMES)


def test_no_files(tmp_path: Path) -> None:
    assert fetch_files([], tmp_path, jobs=4, options=IMPATIENT, show=False) == []
    with pytest.raises(UsageError):
        fetch_files([], tmp_path, jobs=0, options=IMPATIENT, show=False)


@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/b"], ["a/b/c", "a"], ["../a"], ["/a"]])
def test_names_that_cannot_be_are_refused_before_anything(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(NetworkError):
        fetch_files(
            [RemoteFile(name, ("http://127.0.0.1:9/",)) for name in names], tmp_path / "x", jobs=1, options=IMPATIENT
        )
    assert not (tmp_path / "x").exists()


def test_one_failure_ends_the_run_and_keeps_what_arrived(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[NAMES[-1]] = [Fault("stall", 60_000)]
    server.faults[NAMES[-2]] = [Fault("status", 503, {"Retry-After": "1"}), Fault("status", 404)]
    options = replace(IMPATIENT, stall_timeout=30)
    start = time.monotonic()
    with pytest.raises(NetworkError, match="404") as caught:
        fetch_files([remote(server, name) for name in NAMES], tmp_path, jobs=2, options=options, show=False)
    assert caught.value.code == "failed_download"
    assert time.monotonic() - start < 3
    assert (tmp_path / f"step/.{Path(NAMES[-1]).name}.part").stat().st_size == 60_000
    assert LOCK_NAME not in names_in(tmp_path)
    fetch_files([remote(server, name) for name in NAMES], tmp_path, jobs=2, options=options, show=False)
    check_arrived(server, tmp_path)
    assert server.sent(NAMES[-1]) == len(server.files[NAMES[-1]])


def test_failures_at_the_same_time_are_one_message(server: FaultyServer, tmp_path: Path) -> None:
    together = threading.Barrier(2)

    def check(file: RemoteFile, path: Path) -> None:
        together.wait(5)
        raise CheckpointError(f"{file.name} is bad", code="damaged_file")

    with pytest.raises(CheckpointError) as caught:
        fetch_files(
            [remote(server, name) for name in NAMES[:2]], tmp_path, jobs=2, options=IMPATIENT, check=check, show=False
        )
    assert all(f"{name} is bad" in caught.value.render() for name in NAMES[:2])
    assert "\n" not in caught.value.message


def test_defect_in_a_check_is_reported(server: FaultyServer, tmp_path: Path) -> None:
    def check(file: RemoteFile, path: Path) -> None:
        raise KeyError("oops")

    with pytest.raises(Exception, match="oops") as caught:
        fetch_files([remote(server, NAMES[0])], tmp_path, jobs=1, options=IMPATIENT, check=check, show=False)
    assert caught.value.exit_code == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_may_not_be_written_to(server: FaultyServer, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be"), folder_lock(tmp_path):
        pass


def test_file_in_the_way_of_the_folder(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a file")
    for folder in (tmp_path / "x", tmp_path / "x" / "y"):
        with pytest.raises(DataError) as caught:
            fetch_files([remote(server, NAMES[0])], folder, jobs=1, options=IMPATIENT, show=False)
        assert caught.value.code == "unwritable_file"
    (tmp_path / NAMES[0]).mkdir()
    with pytest.raises(DataError, match="not a file"):
        fetch_files([remote(server, NAMES[0])], tmp_path, jobs=1, options=IMPATIENT, show=False)


def test_room_is_looked_for_first(server: FaultyServer, tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    file = replace(remote(server, NAMES[0]), size=free + 10**9)
    with pytest.raises(DataError) as caught:
        fetch_files([file], tmp_path, jobs=1, options=IMPATIENT, show=False)
    assert caught.value.code == "disk_full"
    assert server.requests == []
    assert names_in(tmp_path) == set()


def test_room_counts_what_is_there(server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of one file has arrived, and all of another; the disk has room for the rest and no more."""
    files = [remote(server, name) for name in NAMES[-2:]]
    fetch_files(files[:1], tmp_path, jobs=1, options=IMPATIENT, show=False)
    half = 64_000
    server.faults[NAMES[-1]] = [Fault("cut", half), Fault("status", 404)]
    with pytest.raises(NetworkError):
        fetch_files(files[1:], tmp_path, jobs=1, options=IMPATIENT, show=False)
    rest = files[1].size - half + fetching._SPARE_BYTES
    # A part may take a block more on the disk than it has bytes.
    for free, enough in ((rest - 5000, False), (rest, True)):
        monkeypatch.setattr(fetching.shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        if enough:
            fetch_files(files, tmp_path, jobs=1, options=IMPATIENT, show=False)
        else:
            with pytest.raises(DataError) as caught:
                fetch_files(files, tmp_path, jobs=1, options=IMPATIENT, show=False)
            assert caught.value.code == "disk_full"
    assert server.sent(NAMES[-1]) == files[1].size


def test_plain_lines_where_there_is_no_terminal(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neoxrun.terminal.progress._LINE_SECONDS", 0.1)
    caplog.set_level(logging.INFO, logger="neoxrun")
    server.faults[NAMES[3]] = [Fault("cut", 100), Fault("stall", 200)]
    options = replace(IMPATIENT, stall_timeout=0.5)
    fetch_files([remote(server, name) for name in NAMES], tmp_path, jobs=2, options=options, show=True)
    lines = [record.getMessage() for record in caplog.records]
    line = r"\d+ of 10 files, [\d.]+.?B of [\d.]+kB, [\d.]+.?B/s(, .+ left)?"
    assert any(re.fullmatch(line, text) for text in lines), lines
    assert any(re.fullmatch(rf"{NAMES[3]}: the connection broke; trying again in .+ s", text) for text in lines)


def test_arrivals_say_what_came_from_where(server: FaultyServer, tmp_path: Path) -> None:
    (arrival,) = fetch_files([remote(server, "latest")], tmp_path, jobs=1, options=IMPATIENT, show=False)
    assert arrival.url == server.link("latest")
    assert arrival.sha256 == digest(server.files["latest"])
    assert 0 < arrival.seconds < 5
