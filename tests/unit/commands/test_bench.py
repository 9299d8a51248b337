"""`neoxrun bench`: what it refuses before anything is loaded, and the job that it makes."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from neoxrun import cli
from neoxrun.launch import launcher
from neoxrun.launch.job import Job

REFUSED = {
    "two replicas": (["--replicas", "2"], 2, "bench measures one replica", "--replicas"),
    "no matplotlib": (["--plot", "{folder}/a.png"], 2, "--plot needs matplotlib", "neoxrun[plot]"),
    "no transformers": (["--compare", "transformers"], 2, "--compare transformers needs", "neoxrun[compare]"),
    "another library": (["--compare", "vllm"], 2, "--compare", "--help"),
    "no checkpoint": (["--checkpoint", "{folder}/none"], 3, "none does not exist", "--checkpoint"),
    "no name of a plot": (["--plot", ""], 2, "the name is empty", "--help"),
}


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    started: list[Job] = []
    monkeypatch.setattr(launcher, "run_job", started.append)
    return started


def options(jobs: list[Job], *arguments: str) -> tuple[Job, Any]:
    assert cli.main(["bench", *arguments, "--device", "cpu"]) in (0, None)
    (job,) = jobs
    return job, job.options


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_loaded(
    case: str, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, code, message, hint = REFUSED[case]
    missing = ("matplotlib", "transformers")
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name in missing else find_spec(name, *rest)
    )
    arguments = [word.format(folder=tmp_path) for word in arguments]
    assert cli.main(["bench", "demo", "--device", "cpu", *arguments]) == code
    problem, _, advice = capsys.readouterr().err.partition("\n\nhint: ")
    assert message in problem
    assert hint in advice
    assert jobs == []


def test_the_job(jobs: list[Job], tmp_path: Path) -> None:
    job, asked = options(jobs, "demo", "--tp", "2", "--json", "--eager")
    assert (job.command, job.eager, job.random_weights) == ("bench", True, False)
    assert (job.plan.tp, job.plan.replicas) == (2, 1)
    assert (asked.model, asked.json, asked.plot, asked.compare, asked.eager) == ("demo", True, None, False, True)
    assert asked.size == sum(path.stat().st_size for path in asked.files) > 6_000_000
    assert 0 <= asked.cached <= 1
    assert asked.parameters == 3_456_000


def test_random_weights_need_no_tokenizer(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    job, asked = options(jobs, "20B", "--random-weights", "--dtype", "bf16", "--set", "num_layers=1")
    assert job.settings.model.padded_vocab_size(2048) == job.plan.vocab_size == 50432
    assert job.settings.tokenizer.vocab_file is not None
    assert job.settings.tokenizer.vocab_file.is_file()
    assert (asked.files, asked.size) == ((), job.plan.weights_bytes)
    assert "50432 assumed" in capsys.readouterr().err


def test_a_tokenizer_that_there_is_stays(jobs: list[Job]) -> None:
    job, _ = options(jobs, "demo", "--random-weights")
    assert job.settings.model.padded_vocab_size(2048) == 2048


def test_the_clock_starts_with_the_process(jobs: list[Job]) -> None:
    """Which is this test run's."""
    before = time.time()
    _, asked = options(jobs, "demo")
    assert 0 < before - asked.started < 3600
