"""A run's folder: whole at any moment, and never that of another run."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from neoxrun.errors import DataError
from neoxrun.training.folder import RunFolder, saved_checkpoints
from neoxrun.training.opening import open_run_folder

MADE: dict[str, Any] = {"version": "1", "training": {"lr": 0.1, "keep": 2}}


def save(folder: RunFolder, step: int, eval_loss: float | None = None, **facts: Any) -> None:
    (folder.begin(step) / "weights").write_text(f"weights of {step}")
    folder.publish(step, facts | ({} if eval_loss is None else {"eval_loss": eval_loss}))


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def test_a_checkpoint_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with open_run_folder(tmp_path / "new" / "run", MADE, resume=False, anyway=False) as folder:
        growing = folder.begin(3)
        (growing / "weights").write_text("half")
        assert folder.checkpoints() == []
        assert not (folder.path / "latest").exists()
        saved = folder.publish(3, {"tokens": 5})
        assert (saved.path / "weights").read_text() == "half"
        assert (folder.path / "latest").read_text() == "global_step3"
        assert [(found.step, found.facts["tokens"]) for found in folder.checkpoints()] == [(3, 5)]
        assert names(folder.path) == {"settings.json", "latest", "global_step3"}


def test_a_checkpoint_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, MADE, resume=False, anyway=False) as folder:
        save(folder, 3)
        (tmp_path / "global_step5").mkdir()
        (tmp_path / "global_step5" / "precious").touch()
        with pytest.raises(DataError, match="global_step5 is not of this run") as error:
            save(folder, 5)
        folder.abandon(5)
        assert error.value.code == "existing_target"
        assert "global_step3 is whole: --resume" in str(error.value.hint)
        assert names(tmp_path / "global_step5") == {"precious"}
        assert names(tmp_path) == {"settings.json", "latest", "global_step3", "global_step5"}
        assert (tmp_path / "latest").read_text() == "global_step3"
        save(folder, 3, 1.0)  # its own it may write again


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    with open_run_folder(tmp_path / "run", MADE, resume=False, anyway=False) as folder:
        for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 1.0)):
            save(folder, step, loss)
            folder.prune(2)
        assert [saved.step for saved in folder.checkpoints()] == [2, 4, 5]
        assert (folder.path / "best").read_text() == "global_step2"
        folder.prune(None)
        assert len(folder.checkpoints()) == 3


def test_the_best_is_one_of_those_that_were_evaluated_alike(tmp_path: Path) -> None:
    with open_run_folder(tmp_path / "run", MADE, resume=False, anyway=False) as folder:
        save(folder, 1, 1.0, evaluated="x")
        save(folder, 2, None, evaluated="y")
        assert (folder.path / "best").read_text() == "global_step1"
        save(folder, 3, 3.0, evaluated="y")
        save(folder, 4, 4.0, evaluated="y")
        assert (folder.path / "best").read_text() == "global_step3"
        folder.prune(1)
        assert [saved.step for saved in folder.checkpoints()] == [3, 4]


def test_what_comes_of_an_evaluation_later_is_noted(tmp_path: Path) -> None:
    with open_run_folder(tmp_path / "run", MADE, resume=False, anyway=False) as folder:
        save(folder, 1, 1.0)
        save(folder, 2, due=["evaluation"])
        folder.amend(2, {"due": [], "eval_loss": 0.5})
        assert folder.checkpoints()[-1].facts == {"step": 2, "due": [], "eval_loss": 0.5}
        assert (folder.path / "best").read_text() == "global_step2"
        folder.prune(1)
        assert names(folder.path / "global_step2") == {"weights", "neoxrun.checkpoint.json"}
        assert [saved.step for saved in folder.checkpoints()] == [2]


def test_a_checkpoint_can_be_replaced_by_one_of_the_same_step(tmp_path: Path) -> None:
    with open_run_folder(tmp_path / "run", MADE, resume=False, anyway=False) as folder:
        save(folder, 1, round=1)
        save(folder, 1, round=2)
        assert [saved.facts["round"] for saved in folder.checkpoints()] == [2]


def test_what_was_being_written_is_removed_when_the_run_continues(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, MADE, resume=False, anyway=False) as folder:
        save(folder, 1)
        save(folder, 2)
        (folder.begin(3) / "weights").write_text("half")
        (tmp_path / "global_step1").rename(tmp_path / "global_step1.removing")
        (tmp_path / "latest").write_text("global_step1")  # killed between the name of 2 and that of latest
    with open_run_folder(tmp_path, MADE, resume=True, anyway=False) as folder:
        assert [saved.step for saved in folder.checkpoints()] == [2]
    assert names(tmp_path) == {"settings.json", "latest", "global_step2"}
    assert (tmp_path / "latest").read_text() == "global_step2"


def test_the_best_is_named_when_the_run_continues(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, MADE, resume=False, anyway=False) as folder:
        save(folder, 1, 2.0)
        save(folder, 2, 1.0)
        (tmp_path / "best").write_text("global_step1")  # killed between the name of 2 and that of the best
    with open_run_folder(tmp_path, MADE, resume=True, anyway=False):
        assert (tmp_path / "best").read_text() == "global_step2"


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run_folder(tmp_path, MADE, resume=False, anyway=False) as folder:
        save(folder, 1)
        (folder.begin(2) / "weights").write_text("more")

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(DataError) as error:
                folder.publish(2, {})
        assert error.value.code == "disk_full"
        assert "global_step1 is whole: --resume" in str(error.value.hint)
        folder.abandon(2)
        assert [saved.step for saved in folder.checkpoints()] == [1]
        assert (tmp_path / "latest").read_text() == "global_step1"


_SAVES_FOR_EVER = """
import sys
from pathlib import Path
from neoxrun.training.opening import open_run_folder
with open_run_folder(Path(sys.argv[1]), {}, resume=True, anyway=False) as folder:
    found = folder.checkpoints()
    step = found[-1].step if found else 0
    while True:
        step += 1
        growing = folder.begin(step)
        for part in range(3):
            (growing / str(part)).write_text(str(step) * 50)
        folder.publish(step, {"eval_loss": 1 / step})
        folder.prune(2)
        print("saved", flush=True)
"""


def test_whatever_moment_it_is_killed_at_the_last_checkpoint_is_whole(tmp_path: Path) -> None:
    moments = random.Random(1)
    last = 0
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", _SAVES_FOR_EVER, tmp_path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while not (tmp_path / "latest").exists() or (tmp_path / "latest").read_text() == f"global_step{last}":
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for saved in saved_checkpoints(tmp_path):
            assert [(saved.path / str(part)).read_text() for part in range(3)] == [str(saved.step) * 50] * 3
        named = (tmp_path / "latest").read_text()
        assert (tmp_path / named / "2").is_file()
        step = int(named.removeprefix("global_step"))
        assert step > last
        last = step


def test_a_folder_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    """As after it was renamed: whether it has checkpoints is not known."""
    run = RunFolder(tmp_path / "run")
    with pytest.raises(DataError, match="cannot be written: No such file") as error:
        run.write_text("latest", "global_step1")
    assert error.value.hint == f"Check the path and its permissions. There is no folder {tmp_path / 'run'}."
