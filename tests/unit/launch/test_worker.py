"""The command chooses the work of a rank; an evaluation is prepared while the weights are loaded."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from neoxrun.config.reader import load_settings
from neoxrun.errors import CheckpointError, DataError, UsageError
from neoxrun.evaluation import run as evaluation
from neoxrun.launch import worker
from neoxrun.launch.job import Job
from support.plans import planned

WAIT = 20
FOLDER = Path("job")


def work(command: str = "evaluate") -> Job:
    nothing: Any = None
    return Job(command, nothing, nothing, "options", kept="It is kept.")


@pytest.mark.parametrize(
    ("command", "work_of_it"),
    [("generate", worker.run_generation), ("score", worker.run_scoring), ("bench", worker.run_benchmark)],
)
def test_the_command_chooses_the_work(command: str, work_of_it: object) -> None:
    load: Any = lambda: "session"  # noqa: E731
    assert worker._begin(work(command), 0, FOLDER, load) == ("session", work_of_it, "options")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_model_for_a_program_is_served_in_the_job_s_folder(rank: int) -> None:
    load: Any = lambda: "session"  # noqa: E731
    session, served, options = worker._begin(work("serve"), rank, FOLDER, load)
    assert (session, options) == ("session", "options")
    assert isinstance(served, partial)
    assert (served.func, served.args) == (worker.run_service, (FOLDER,))


def test_tasks_are_prepared_during_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the other to have begun."""
    loading, preparing = threading.Event(), threading.Event()

    def load() -> Any:
        loading.set()
        assert preparing.wait(WAIT)
        return "session"

    def prepare(options: object) -> object:
        preparing.set()
        assert loading.wait(WAIT)
        return options, "ready"

    monkeypatch.setattr(evaluation, "prepare_run", prepare)
    assert worker._begin(work(), 0, FOLDER, load) == ("session", evaluation.run_evaluation, ("options", "ready"))


def test_a_task_that_fails_does_not_wait_for_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = threading.Event()

    def load() -> Any:
        assert loaded.wait(WAIT)

    def prepare(options: object) -> None:
        raise DataError("a task is wrong", code="bad_task")

    monkeypatch.setattr(evaluation, "prepare_run", prepare)
    with pytest.raises(DataError, match="a task is wrong"):
        worker._begin(work(), 0, FOLDER, load)
    assert not loaded.is_set()
    loaded.set()


def test_a_load_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> Any:
        raise CheckpointError("x.pt is damaged", code="damaged_file")

    monkeypatch.setattr(evaluation, "prepare_run", lambda options: options)
    with pytest.raises(CheckpointError, match="is damaged"):
        worker._begin(work(), 0, FOLDER, load)


def test_a_load_that_fails_does_not_wait_for_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = threading.Event()

    def load() -> Any:
        raise SystemExit(3)

    monkeypatch.setattr(evaluation, "prepare_run", lambda options: prepared.wait(WAIT))
    with pytest.raises(SystemExit):
        worker._begin(work(), 0, FOLDER, load)
    assert not prepared.is_set()
    prepared.set()


def test_all_ranks_train_by_the_same_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that are started separately, with another learning rate, would train apart."""
    found: list[Any] = []

    def gather(value: Any) -> list[Any]:
        found.append(value)
        return [*found]

    monkeypatch.setattr(worker.meshes, "gather_from_all", gather)
    job, plan = work("finetune"), planned("pythia-14m", "1x80GB")
    first = replace(job, plan=plan, settings=load_settings(["pythia-14m"]), options=("lr", 1e-5))
    worker._agree(first)
    worker._agree(first)
    with pytest.raises(UsageError, match="another command, configuration or split"):
        worker._agree(replace(first, options=("lr", 2e-5)))
