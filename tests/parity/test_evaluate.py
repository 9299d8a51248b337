"""On the same weights, `neoxrun evaluate` gives what lm-eval gives with its ``hf`` model.

On every split of the model, and also where the run was killed and interrupted in between and went on from its cache.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate", reason="lm-eval's hf model needs accelerate")

from support import evaluations
from support.command import Running, neoxrun, running, wait_for
from support.evaluations import LIMIT, WHOLE, Model
from support.task_data import write_hub_form

TASKS = ["lambada_openai", "piqa", "answers", "answers_shown", "story", "writing"]
ASKED = ["--tasks", *TASKS, "--limit", LIMIT, "--log-samples"]
SPLITS = ["--tp 1", "--tp 2", "--tp 1 --pp 2", "--tp 2 --pp 2", "--tp 1 --replicas 2", "--tp 2 --replicas 2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Model:
    folder = tmp_path_factory.mktemp("evaluate")
    data = request.getfixturevalue("shared") / "data" if WHOLE else write_hub_form(folder / "data")
    return evaluations.make(folder, data)


@pytest.fixture(scope="module")
def theirs(model: Model) -> dict[str, Any]:
    return evaluations.reference(model, TASKS)


def figures(results: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Every figure with a name, standard errors left out."""
    return {
        (task, metric): value
        for task, metrics in results["results"].items()
        for metric, value in metrics.items()
        if "," in metric and "_stderr" not in metric
    }


def check_answers(folder: Path, theirs: dict[str, Any]) -> None:
    """The samples files have the answers of the ``hf`` model, request by request."""
    greedy = 0
    responses = evaluations.responses_of(folder)
    assert sorted(responses) == sorted(TASKS)
    for task, documents in responses.items():
        expected = [sample["resps"] for sample in theirs["samples"][task]]
        assert len(documents) == len(expected) > 0
        for mine, own in zip(documents, expected, strict=True):
            for [answer], [right] in zip(mine, own, strict=True):
                where = f"{task}: {answer} instead of {right}"
                if isinstance(right, str):
                    assert answer == right, where
                elif isinstance(right, float):
                    assert float(answer) == pytest.approx(right, abs=1e-3), where
                else:
                    assert float(answer[0]) == pytest.approx(right[0], abs=1e-3), where
                    assert answer[1] == str(right[1]), where
                    greedy += right[1]
    assert greedy >= 5, "some answers must be those of greedy decoding, or the test shows nothing"


def check_figures(results: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The results file has the figures of the ``hf`` model."""
    assert figures(results).keys() == figures(theirs).keys()
    for name, value in figures(theirs).items():
        tolerance = 1e-4 if "perplexity" in name[1] else 0
        assert figures(results)[name] == pytest.approx(value, rel=tolerance), name
    assert results["n-shot"] == theirs["n-shot"]
    assert results["n-samples"] == theirs["n-samples"]


@pytest.mark.parametrize("split", SPLITS)
def test_same_as_hf(split: str, model: Model, theirs: dict[str, Any], tmp_path: Path) -> None:
    done = model.evaluate(*ASKED, "--output", tmp_path, *split.split()).check_success()
    check_answers(tmp_path, theirs)
    results = evaluations.results_of(tmp_path)
    check_figures(results, theirs)
    words = split.split()
    sizes = {name.removeprefix("--"): int(size) for name, size in zip(words[::2], words[1::2], strict=True)}
    assert results["neoxrun"]["split"] == {"tp": 1, "pp": 1, "replicas": 1} | sizes
    assert ("longer than the context" in done.err) != WHOLE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is visible")
def test_same_as_hf_on_a_gpu(model: Model, theirs: dict[str, Any], tmp_path: Path) -> None:
    asked = [*ASKED, "--output", tmp_path, "--device", "cuda", "--dtype", "fp32", "--tp", 1]
    model.evaluate(*asked, env={"CUDA_VISIBLE_DEVICES": "0"}).check_success()
    check_answers(tmp_path, theirs)
    check_figures(evaluations.results_of(tmp_path), theirs)


def kept(cache: Path) -> int:
    """How many answers a cache has."""
    if not cache.exists() or not cache.stat().st_size:
        return 0
    with contextlib.closing(sqlite3.connect(cache, timeout=30)) as base:
        try:
            return base.execute("SELECT count(*) FROM answers").fetchone()[0]
        except sqlite3.OperationalError:  # the table is not there yet
            return 0


def test_a_run_goes_on_where_it_was_stopped(model: Model, theirs: dict[str, Any], tmp_path: Path) -> None:
    cache = tmp_path / "answers.db"
    # One sequence at a time, so that there is a middle.
    slowly = [model.config, *model.where, *ASKED, "--cache", cache, "--output", tmp_path, "--batch-size", "1"]

    def wait_for_answers(command: Running, more_than: int) -> None:
        def there() -> bool:
            assert command.process.poll() is None, command.finish().err
            return kept(cache) > more_than

        wait_for(there, 60, lambda: "no answers came")

    with running("evaluate", *slowly, "--tp", 2) as command:
        wait_for_answers(command, 5)
        os.kill(command.rank(1), signal.SIGKILL)
        result = command.finish(timeout=20)
        command.check_all_gone()
    result.check_error(5, "rank 1", "killed by SIGKILL", str(cache))
    killed = kept(cache)

    with running("evaluate", *slowly, "--tp", 1) as command:
        wait_for_answers(command, killed + 5)
        command.interrupt()
        result = command.finish(timeout=20)
        command.check_all_gone()
    result.check_error(130, "interrupted", str(cache))
    interrupted = kept(cache)
    assert not list(tmp_path.glob("*/results_*"))

    neoxrun("evaluate", *slowly, "--tp", 1, "--replicas", 2).check_success()
    check_answers(tmp_path, theirs)
    results = evaluations.results_of(tmp_path)
    check_figures(results, theirs)
    ours = results["neoxrun"]
    assert ours["requests_from_cache"] == interrupted, "an answer was asked for twice"
    assert 5 < killed < interrupted < ours["requests"] == kept(cache)
