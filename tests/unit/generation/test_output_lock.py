"""No two runs hold one output, and a run that has ended holds none."""

from __future__ import annotations

import errno
import fcntl
import os
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
