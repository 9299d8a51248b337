"""A download in its own process: one a folder, Ctrl-C, SIGKILL, memory, a full disk, and what a terminal shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neoxrun.download.fetch import fetch_files, folder_lock
from neoxrun.download.remote import LOCK_NAME
from neoxrun.errors import DataError
from support.downloads import IMPATIENT, NAMES, check_arrived, fetch_one, names_in, remote, server_of_ten
from support.faulty_server import Fault, FaultyServer, wait_until

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
def server() -> Iterator[FaultyServer]:
    with server_of_ten() as server:
        yield server


def command(server: FaultyServer, folder: Path, *, jobs: int = 4, verbosity: int = -1) -> list[str]:
    pairs = [f"{name}={server.link(name)}" for name in server.files]
    return [sys.executable, "-c", PROGRAM, str(folder), str(jobs), str(verbosity), *pairs]


def started(program: list[str], **streams: Any) -> subprocess.Popen[Any]:
    """A process that Ctrl-C ends, also where the tests run in the background and ignore it."""
    return subprocess.Popen(program, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **streams)


def test_two_runs_do_not_fight(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[NAMES[-1]] = [Fault("stall", 1000)]
    holder = subprocess.Popen(command(server, tmp_path), stderr=subprocess.PIPE)
    try:
        assert wait_until(lambda: (tmp_path / LOCK_NAME).exists() and (tmp_path / LOCK_NAME).read_text() != "")
        with pytest.raises(DataError, match=rf"process {holder.pid} on "), folder_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    # The lock ends with its process, however that ends.
    with folder_lock(tmp_path):
        fetch_files([remote(server, name) for name in NAMES], tmp_path, jobs=4, options=IMPATIENT, show=False)
    check_arrived(server, tmp_path)


def test_interrupt_stops_within_a_second_and_keeps_parts(server: FaultyServer, tmp_path: Path) -> None:
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
    check_arrived(server, tmp_path)
    assert all(server.sent(name) == len(server.files[name]) for name in NAMES)


def test_killed_at_any_moment_and_started_again(server: FaultyServer, tmp_path: Path) -> None:
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
    check_arrived(server, tmp_path)
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


def test_bars_on_a_terminal(server: FaultyServer, tmp_path: Path) -> None:
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


def test_quiet_is_silent(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[NAMES[0]] = [Fault("cut", 10)]
    done = subprocess.run(command(server, tmp_path, verbosity=-1), capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_full_disk(server: FaultyServer, tmp_path: Path) -> None:
    """A real refusal of the kernel's: the process may not write files beyond 100,000 bytes."""
    largest = NAMES[-1]
    program = command(server, tmp_path)
    program[4:] = ["1", "-1", f"one.bin={server.link(largest)}"]
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 4, done.stderr
    assert "the file system does not allow files of this size" in done.stderr
    assert (tmp_path / ".one.bin.part").stat().st_size == 100_000
    fetch_one(replace(remote(server, largest), name="one.bin"), tmp_path)
    assert server.gets(largest)[-1].start == 100_000
