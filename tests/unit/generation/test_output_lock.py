"""No two runs hold one output, and a run that has ended holds none."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from neoxrun.errors import DataError
from neoxrun.generation.output_lock import lock_file, output_lock


def test_an_output_is_held_once_under_any_of_its_names(tmp_path: Path) -> None:
    file, link = tmp_path / "out.jsonl", tmp_path / "link"
    link.symlink_to(file)
    with output_lock(file):
        for name in (file, link, tmp_path / "folder" / ".." / "out.jsonl"):
            with pytest.raises(DataError, match=f"another run is writing to .* \\(process {os.getpid()} on ") as caught:
                output_lock(name).__enter__()
            assert (caught.value.code, caught.value.exit_code) == ("output_in_use", 4)
        with output_lock(tmp_path / "other.jsonl"):
            pass
        assert not file.exists(), "a run that is refused later leaves no output"
    with output_lock(link):
        assert lock_file(file).exists()
    assert list(tmp_path.iterdir()) == [link]


def test_an_error_lets_it_go(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), output_lock(tmp_path / "out"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_has_left_locks_nothing(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    program = f"""
import os, signal
from pathlib import Path
from neoxrun.generation.output_lock import output_lock
with output_lock(Path({str(file)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == -9
    assert lock_file(file).exists()
    with output_lock(file):
        pass
    assert not lock_file(file).exists()


def test_the_program_that_takes_over_holds_it(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    program = f"""
import os, sys
from pathlib import Path
from neoxrun.generation.output_lock import output_lock
with output_lock(Path({str(file)!r})):
    os.execv(sys.executable, [sys.executable, "-c", "print('ready', flush=True); input()"])
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(DataError, match=f"process {other.pid} on"):
            output_lock(file).__enter__()
        other.communicate("\n", timeout=60)
    with output_lock(file):
        pass


def test_of_many_at_once_one_holds_it(tmp_path: Path) -> None:
    """Again and again: whoever lets it go removes the file that another may just have opened."""
    file = tmp_path / "out.jsonl"
    holders: list[int] = []
    most = [0, 0]

    def work() -> None:
        for _ in range(200):
            try:
                with output_lock(file):
                    holders.append(1)
                    most[0] = max(most[0], len(holders))
                    most[1] += 1
                    holders.pop()
            except DataError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert most[1] > 8
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_the_run_continues(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with output_lock(tmp_path / "out"), output_lock(tmp_path / "out"):
        assert not list(tmp_path.iterdir())


def test_what_is_no_file_is_not_locked(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ExitStack() as held:
        for output in (None, None, pipe, pipe, Path("/dev/null"), tmp_path / "no" / "such" / "folder"):
            held.enter_context(output_lock(output))
        assert list(tmp_path.iterdir()) == [pipe]
