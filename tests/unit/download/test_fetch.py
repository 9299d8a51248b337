"""Many files: one program a folder, room on the disk, Ctrl-C, SIGKILL, and what is shown meanwhile."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from neoxrun.download import fetch as fetching
from neoxrun.download.fetch import fetch_files, folder_lock
from neoxrun.download.remote import LOCK_NAME, RemoteFile
from neoxrun.errors import CheckpointError, DataError, NetworkError, UsageError
from support.downloads import IMPATIENT, data_of, digest, names_in, remote
from support.faulty_server import Fault, FaultyServer, wait_until

NAMES = ["tokenizer.json", "latest", *(f"step/layer_{number:02}.pt" for number in range(8))]

# A process of its own, which a signal may end: FOLDER JOBS NAME=URL ...
PROGRAM = """
import sys, threading
from pathlib import Path
from neoxrun.terminal import log
from neoxrun.download.fetch import fetch_files, folder_lock, make_folder
from neoxrun.download.http import HttpOptions
from neoxrun.download.remote import RemoteFile
from neoxrun.errors import NeoxrunError
folder, jobs, verbosity, *pairs = sys.argv[1:]
log.set_up(int(verbosity))
files = [RemoteFile(*(pair.split("=")[0], (pair.split("=")[1],))) for pair in pairs]
options = HttpOptions(tries=50, stall_timeout=60, backoff=0.01)
try:
    make_folder(Path(folder))
    with folder_lock(Path(folder)):
        done = fetch_files(files, Path(folder), jobs=int(jobs), options=options, show=int(verbosity) >= 0)
    print(len(done))
except NeoxrunError as error:
    print(error.render(), file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def server():
    with FaultyServer({name: data_of(40_000 + 10_000 * at, at) for at, name in enumerate(NAMES)}) as server:
        yield server


def command(server: FaultyServer, folder: Path, *, jobs: int = 4, verbosity: int = -1) -> list[str]:
    pairs = [f"{name}={server.link(name)}" for name in server.files]
    return [sys.executable, "-c", PROGRAM, str(folder), str(jobs), str(verbosity), *pairs]


def started(program: list[str], **streams) -> subprocess.Popen:
    """A process that Ctrl-C ends, also where the tests run in the background and ignore it."""
    return subprocess.Popen(program, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **streams)


def all_right(server: FaultyServer, folder: Path) -> None:
    assert names_in(folder) == set(server.files)
    for name, data in server.files.items():
        assert (folder / name).read_bytes() == data


def test_all_files_largest_first(server, tmp_path: Path) -> None:
    files = [remote(server, name) for name in NAMES]
    arrivals = fetch_files(files, tmp_path / "new" / "folder", jobs=1, options=IMPATIENT, show=False)
    all_right(server, tmp_path / "new" / "folder")
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


def test_one_failure_ends_the_run_and_keeps_what_arrived(server, tmp_path: Path) -> None:
    server.faults[NAMES[-1]] = [Fault("stall", 60_000)]
    server.faults[NAMES[-2]] = [Fault("status", 503, {"Retry-After": "1"}), Fault("status", 404)]
    options = replace(IMPATIENT, stall_timeout=30)
    start = time.monotonic()
    with pytest.raises(NetworkError, match="404"):
        fetch_files([remote(server, name) for name in NAMES], tmp_path, jobs=2, options=options, show=False)
    assert time.monotonic() - start < 3
    assert (tmp_path / f"step/.{Path(NAMES[-1]).name}.part").stat().st_size == 60_000
    assert LOCK_NAME not in names_in(tmp_path)
    fetch_files([remote(server, name) for name in NAMES], tmp_path, jobs=2, options=options, show=False)
    all_right(server, tmp_path)
    assert server.sent(NAMES[-1]) == len(server.files[NAMES[-1]])


def test_failures_at_the_same_time_are_one_message(server, tmp_path: Path) -> None:
    together = threading.Barrier(2)

    def check(file: RemoteFile, path: Path) -> None:
        together.wait(5)
        raise CheckpointError(f"{file.name} is bad")

    with pytest.raises(CheckpointError) as caught:
        fetch_files(
            [remote(server, name) for name in NAMES[:2]], tmp_path, jobs=2, options=IMPATIENT, check=check, show=False
        )
    assert all(f"{name} is bad" in caught.value.render() for name in NAMES[:2])
    assert "\n" not in caught.value.message


def test_defect_in_a_check_is_reported(server, tmp_path: Path) -> None:
    def check(file: RemoteFile, path: Path) -> None:
        raise KeyError("oops")

    with pytest.raises(Exception, match="oops") as caught:
        fetch_files([remote(server, NAMES[0])], tmp_path, jobs=1, options=IMPATIENT, check=check, show=False)
    assert caught.value.exit_code == 1


def test_two_runs_do_not_fight(server, tmp_path: Path) -> None:
    server.faults[NAMES[-1]] = [Fault("stall", 1000)]
    holder = subprocess.Popen(command(server, tmp_path), stderr=subprocess.PIPE)
    try:
        assert wait_until(lambda: (tmp_path / LOCK_NAME).exists() and (tmp_path / LOCK_NAME).read_text() != "")
        with pytest.raises(DataError, match=rf"process {holder.pid}\)"), folder_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    # The lock ends with its process, however that ends.
    with folder_lock(tmp_path):
        fetch_files([remote(server, name) for name in NAMES], tmp_path, jobs=4, options=IMPATIENT, show=False)
    all_right(server, tmp_path)


def test_lock_is_exclusive_while_it_comes_and_goes(tmp_path: Path) -> None:
    inside, most, rounds = [0], [0], [0]
    guard = threading.Lock()

    def take() -> None:
        for _ in range(200):
            try:
                with folder_lock(tmp_path):
                    with guard:
                        inside[0] += 1
                        rounds[0] += 1
                        most[0] = max(most[0], inside[0])
                    time.sleep(0.0001)
                    with guard:
                        inside[0] -= 1
            except DataError:
                pass

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert rounds[0] > 10


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_may_not_be_written_to(server, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be"), folder_lock(tmp_path):
        pass


def test_file_in_the_way_of_the_folder(server, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a file")
    for folder in (tmp_path / "x", tmp_path / "x" / "y"):
        with pytest.raises(DataError, match="cannot be created"):
            fetch_files([remote(server, NAMES[0])], folder, jobs=1, options=IMPATIENT, show=False)
    (tmp_path / NAMES[0]).mkdir()
    with pytest.raises(DataError, match="not a file"):
        fetch_files([remote(server, NAMES[0])], tmp_path, jobs=1, options=IMPATIENT, show=False)


def test_room_is_looked_for_first(server, tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    file = replace(remote(server, NAMES[0]), size=free + 10**9)
    with pytest.raises(DataError, match="B are free"):
        fetch_files([file], tmp_path, jobs=1, options=IMPATIENT, show=False)
    assert server.requests == []
    assert names_in(tmp_path) == set()


def test_room_counts_what_is_there(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
            with pytest.raises(DataError, match="B are free"):
                fetch_files(files, tmp_path, jobs=1, options=IMPATIENT, show=False)
    assert server.sent(NAMES[-1]) == files[1].size


def test_interrupt_stops_within_a_second_and_keeps_parts(server, tmp_path: Path) -> None:
    """Every thread hangs in a read that would last a minute."""
    for name in NAMES:
        server.faults[name] = [Fault("stall", 30_000)]
    process = started(command(server, tmp_path), stderr=subprocess.PIPE, text=True)
    parts = lambda: sum(path.stat().st_size == 30_000 for path in tmp_path.rglob(".*.part"))  # noqa: E731
    assert wait_until(lambda: parts() == 4)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - start < 1.5
    assert process.returncode == 130
    assert err.startswith("error: interrupted: 0 of 10 files are complete")
    assert parts() == 4
    assert LOCK_NAME not in names_in(tmp_path)
    server.faults.clear()
    done = subprocess.run(command(server, tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout == "10\n"
    all_right(server, tmp_path)
    assert all(server.sent(name) == len(server.files[name]) for name in NAMES)


def test_killed_at_any_moment_and_started_again(server, tmp_path: Path) -> None:
    """Slowly enough that each process dies in the middle of files; what had arrived is not asked for again."""
    server.draw = lambda name, start, size: Fault("cut", 4000) if start + 4000 < size else None
    kills = 0
    for attempt in range(40):
        process = subprocess.Popen(command(server, tmp_path), stderr=subprocess.PIPE)
        try:
            process.wait(0.35 + 0.05 * (attempt % 7))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert kills >= 2
    all_right(server, tmp_path)
    total = sum(map(len, server.files.values()))
    # A kill costs at most the one answer that was under way for each of the four files.
    assert sum(server.sent(name) for name in NAMES) <= total + kills * 4 * 4000


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(size: int) -> int:
        with FaultyServer({"big": bytes(size)}) as server:
            program = command(server, tmp_path / str(size))
            # Not ru_maxrss, which begins with the memory of the process that started this one.
            program[2] += "\nprint(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
            done = subprocess.run(program, capture_output=True, text=True, check=True)
            return int(done.stdout.split()[-1]) * 1024

    assert peak(200_000_000) - peak(1_000_000) < 20_000_000


def test_plain_lines_where_there_is_no_terminal(
    server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neoxrun.terminal.progress._LINE_SECONDS", 0.3)
    caplog.set_level(logging.INFO, logger="neoxrun")
    server.faults[NAMES[3]] = [Fault("cut", 100), Fault("stall", 200)]
    options = replace(IMPATIENT, stall_timeout=1.0)
    fetch_files([remote(server, name) for name in NAMES], tmp_path, jobs=2, options=options, show=True)
    lines = [record.getMessage() for record in caplog.records]
    line = r"\d+ of 10 files, [\d.]+.?B of [\d.]+kB, [\d.]+.?B/s(, .+ left)?"
    assert any(re.fullmatch(line, text) for text in lines), lines
    assert any(re.fullmatch(rf"{NAMES[3]}: the connection broke; trying again in .+ s", text) for text in lines)


def test_bars_on_a_terminal(server, tmp_path: Path) -> None:
    for name in NAMES[-3:]:
        server.faults[name] = [Fault("drip", 50_000), Fault("cut", 1)]
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
    process = started(command(server, tmp_path, verbosity=0), stdout=subprocess.DEVNULL, stderr=side)
    os.close(side)
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    process.wait(10)
    seen = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(main)
    text = seen.decode()
    assert re.search(r"\d of 10 files: +\d+%", text), text
    for name in NAMES[-3:]:
        assert re.search(rf"{name}: +\d+%", text), text
    assert "B/s" in text
    assert "Traceback" not in text


def test_quiet_is_silent(server, tmp_path: Path) -> None:
    server.faults[NAMES[0]] = [Fault("cut", 10)]
    done = subprocess.run(command(server, tmp_path, verbosity=-1), capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_arrivals_say_what_came_from_where(server, tmp_path: Path) -> None:
    (arrival,) = fetch_files([remote(server, "latest")], tmp_path, jobs=1, options=IMPATIENT, show=False)
    assert arrival.url == server.link("latest")
    assert arrival.sha256 == digest(server.files["latest"])
    assert 0 < arrival.seconds < 5
