"""Locks on files and folders, between real processes and threads."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from neoxrun.locks import held_file, held_folder, holder


def test_what_a_killed_process_has_left_locks_nothing(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    program = f"""
import os, signal
from pathlib import Path
from neoxrun.locks import held_file
with held_file(Path({str(file)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == -9
    assert file.exists()
    with held_file(file):
        pass
    assert not file.exists()


def test_the_program_that_takes_over_holds_it(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    program = f"""
import os, sys
from pathlib import Path
from neoxrun.locks import held_file
with held_file(Path({str(file)!r})):
    os.execv(sys.executable, [sys.executable, "-c", "print('ready', flush=True); input()"])
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(BlockingIOError):
            held_file(file).__enter__()
        assert holder(file).startswith(f"process {other.pid} on ")
        other.communicate("\n", timeout=60)
    with held_file(file):
        pass


def test_of_many_at_once_one_holds_it(tmp_path: Path) -> None:
    """Again and again: whoever lets it go removes the file that another may just have opened."""
    file = tmp_path / "lock"
    holders: list[int] = []
    most = [0, 0]

    def work() -> None:
        for _ in range(200):
            try:
                with held_file(file):
                    holders.append(1)
                    most[0] = max(most[0], len(holders))
                    most[1] += 1
                    holders.pop()
            except BlockingIOError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert most[1] > 8
    assert not list(tmp_path.iterdir())


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with held_folder(tmp_path) as held:
        assert held
        with pytest.raises(BlockingIOError):
            held_folder(tmp_path).__enter__()
    with held_folder(tmp_path) as held:
        assert held
    with pytest.raises(FileNotFoundError):
        held_folder(tmp_path / "none").__enter__()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_on_a_file_system_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with held_folder(tmp_path) as held:
        assert not held
    with pytest.raises(OSError, match=os.strerror(number)):
        held_file(tmp_path / "lock").__enter__()
    assert not list(tmp_path.iterdir())


def test_what_another_has_written_there_is_not_taken_for_a_holder(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"\x1b[31m12 x; rm -rf\xff")
    assert holder(tmp_path / "lock") == "its process is not known"
    assert holder(tmp_path / "none") == "its process is not known"
