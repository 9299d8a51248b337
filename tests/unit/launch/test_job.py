"""The job's folder: what ranks leave there, and what the agent reads of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from neoxrun.errors import CheckpointError, DataError, Interrupted, NeoxrunError, RankError, Terminated
from neoxrun.generation.lines import state_of
from neoxrun.launch import job
from neoxrun.launch.job import Failure, Job, failure_of, read_cause, read_failures
from neoxrun.training.folder import NONE_WRITTEN

LOST = RankError("rank 0 lost contact", code="lost_contact")
DAMAGED = CheckpointError("x.pt is damaged", code="damaged_file")


def test_a_failure_is_left_with_its_code(tmp_path: Path) -> None:
    DAMAGED.shared = True
    failure_of(DAMAGED, 2, verbose=False).save(tmp_path)
    failure_of(LOST, 0, verbose=True).save(tmp_path)
    left = json.loads((tmp_path / "rank-2.json").read_text())
    assert left == {
        "rank": 2,
        "exit_code": 3,
        "code": "damaged_file",
        "text": "error: x.pt is damaged",
        "shared": True,
        "message": "x.pt is damaged",
        "where": None,
        "hint": None,
    }
    found = read_failures(tmp_path)
    assert found[2] == Failure(2, 3, "damaged_file", "error: x.pt is damaged", shared=True, message="x.pt is damaged")
    assert not found[2].lost_contact
    assert found[0].lost_contact
    assert found[0].text.endswith("\ncode: lost_contact")


def test_a_failure_without_a_folder_is_dropped(tmp_path: Path) -> None:
    failure_of(DAMAGED, 0, verbose=False).save(tmp_path / "removed")
    assert not list(tmp_path.iterdir())


def test_processes_that_answer_ctrl_c(tmp_path: Path) -> None:
    assert job.announced_processes(tmp_path) == []
    job.announce_rank(tmp_path, 0)
    job.announce_rank(tmp_path, 2)
    assert job.announced_processes(tmp_path) == [os.getpid()] * 2


def test_a_job_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    work: Any = {"settings": None, "plan": None}
    saved = Job("generate", **work, kept="It is kept.", options={"a": 1}, node_rank=3)
    folder = saved.save()
    assert folder.stat().st_mode & 0o077 == 0, "what a job holds is nobody else's"
    assert job.load_job(folder) == saved


def test_nothing_is_kept_before_the_first_record(tmp_path: Path) -> None:
    work: Any = {"settings": None, "plan": None}
    assert Job("bench", **work, kept="It is kept.").continuing() == "It is kept."
    job = Job("generate", **work, kept="It is kept.", records=tmp_path / "out.jsonl")
    assert job.continuing() == "Give the same command again."
    (tmp_path / "out.jsonl").touch()
    assert job.continuing() == "Give the same command again."
    (tmp_path / "out.jsonl").write_text("{}\n")
    assert job.continuing() == "It is kept."


def test_a_checkpoint_is_kept_once_there_is_one(tmp_path: Path) -> None:
    work: Any = {"settings": None, "plan": None}
    job = Job("finetune", **work, kept=NONE_WRITTEN, run=tmp_path / "run")
    for name in ("global_step2.writing", "global_step4", "global_step10"):
        assert job.continuing() == "No checkpoint has been written yet: the same command starts again."
        (tmp_path / "run" / name).mkdir(parents=True)
    for name in ("global_step4", "global_step10"):
        (tmp_path / "run" / name / "neoxrun.checkpoint.json").write_text("{")  # what it says does not matter
        assert job.continuing() == f"{tmp_path / 'run' / name} is whole: --resume continues from it."


def test_records_that_a_job_replaces_are_not_its_own(tmp_path: Path) -> None:
    work: Any = {"settings": None, "plan": None}
    records = tmp_path / "out.jsonl"
    records.write_text("{}\n")
    job = Job("generate", **work, kept="It is kept.", records=records, replaced=state_of(records))
    assert job.continuing() == "Give the same command again."
    records.write_text("")
    assert job.continuing() == "Give the same command again."
    records.write_text('{"id": 0}\n')
    assert job.continuing() == "It is kept."


def test_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    work: Any = {"settings": None, "plan": None}
    with pytest.raises(DataError) as caught:
        Job("generate", **work, kept="It is kept.").save()
    assert caught.value.code == "unwritable_file"


def test_the_owner_of_a_job_gets_the_error_itself(tmp_path: Path) -> None:
    assert read_cause(tmp_path) is None
    error = RankError("rank 1 has died", code="rank_died", where="host", hint="Look.")
    failure_of(error, 1, verbose=False).save_as_cause(tmp_path)
    cause = read_cause(tmp_path)
    assert cause is not None
    again = cause.to_error()
    assert (type(again), str(again), again.code) == (RankError, str(error), error.code)
    for other in (NeoxrunError("oh"), Terminated("ended by SIGTERM"), Interrupted("interrupted")):
        same = failure_of(other, 0, verbose=False).to_error()
        assert (type(same), same.code, same.exit_code) == (type(other), other.code, other.exit_code)
    failure_of(error, 1, verbose=False).save_as_cause(tmp_path / "removed")


def test_removing_what_was_left_keeps_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    work: Any = {"settings": None, "plan": None}
    for _ in range(3):
        folder, lock = Job("generate", **work, kept="").save_and_lock()
        assert lock is not None
        os.close(lock)
        os.utime(folder, (0, 0))
    before = len([*Path("/proc/self/fd").iterdir()])
    folder, lock = Job("generate", **work, kept="").save_and_lock()
    assert lock is not None
    os.close(lock)
    assert [*tmp_path.iterdir()] == [folder]
    assert len([*Path("/proc/self/fd").iterdir()]) == before
