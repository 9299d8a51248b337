"""On the same weights, `neoxrun evaluate` has the same results as lm-eval with its ``hf`` model.

On every split of the model, and also where the run was killed, interrupted and continued from its cache. LAMBADA and
PIQA are the published ones where the shared folder has them, and stand-ins elsewhere.
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
from support.evaluations import LIMIT, WHOLE, EvaluatedModel
from support.paths import shared_folder
from support.task_data import write_hub_form

TASKS = ["lambada_openai", "piqa", "answers", "answers_shown", "story", "writing"]
ASKED = ["--tasks", *TASKS, "--limit", LIMIT, "--log-samples"]
SPLITS = ["--tp 1", "--tp 2", "--tp 1 --pp 2", "--tp 2 --pp 2", "--tp 1 --replicas 2", "--tp 2 --replicas 2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    folder = tmp_path_factory.mktemp("evaluate")
    data = shared_folder() / "data"
    if not data.is_dir():
        if WHOLE:
            pytest.skip(f"no published data sets in {data} (NEOXRUN_SHARED names that folder's parent)")
        data = write_hub_form(folder / "data")
    return evaluations.write_model(folder, data)


@pytest.fixture(scope="module")
def expected(model: EvaluatedModel) -> dict[str, Any]:
    return evaluations.reference_results(model, TASKS)


def metrics_of(results: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Every metric by task and name, without the standard errors."""
    return {
        (task, metric): value
        for task, metrics in results["results"].items()
        for metric, value in metrics.items()
        if "," in metric and "_stderr" not in metric
    }


def check_answers(folder: Path, expected: dict[str, Any]) -> None:
    """The samples files hold the answers of the ``hf`` model, request by request."""
    greedy = 0
    responses = evaluations.responses_of(folder)
    assert sorted(responses) == sorted(TASKS)
    for task, documents in responses.items():
        references = [sample["resps"] for sample in expected["samples"][task]]
        assert len(documents) == len(references) > 0
        for answers, rights in zip(documents, references, strict=True):
            for [answer], [right] in zip(answers, rights, strict=True):
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


def check_metrics(results: dict[str, Any], expected: dict[str, Any]) -> None:
    """The results file holds the metrics of the ``hf`` model."""
    assert metrics_of(results).keys() == metrics_of(expected).keys()
    for name, value in metrics_of(expected).items():
        tolerance = 1e-4 if "perplexity" in name[1] or "bits_per_byte" in name[1] else 0
        assert metrics_of(results)[name] == pytest.approx(value, rel=tolerance), name
    assert results["n-shot"] == expected["n-shot"]
    assert results["n-samples"] == expected["n-samples"]
    assert expected.keys() - {"samples"} <= results.keys()
    assert expected["config"].keys() <= results["config"].keys()
    same = ("model_num_parameters", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed", "limit")
    assert {key: results["config"][key] for key in same} == {key: expected["config"][key] for key in same}
    same = ("eot_token_id", "max_length", "tokenizer_bos_token", "tokenizer_eos_token", "higher_is_better", "versions")
    assert {key: results[key] for key in same} == {key: expected[key] for key in same}


@pytest.mark.parametrize("split", SPLITS)
def test_same_as_hf(split: str, model: EvaluatedModel, expected: dict[str, Any], tmp_path: Path) -> None:
    done = model.evaluate(*ASKED, "--output", tmp_path, *split.split()).check_success()
    check_answers(tmp_path, expected)
    results = evaluations.results_of(tmp_path)
    check_metrics(results, expected)
    words = split.split()
    sizes = {name.removeprefix("--"): int(size) for name, size in zip(words[::2], words[1::2], strict=True)}
    assert results["neoxrun"]["split"] == {"tp": 1, "pp": 1, "replicas": 1} | sizes
    assert ("longer than the context" in done.err) != WHOLE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is visible")
def test_same_as_hf_on_a_gpu(model: EvaluatedModel, expected: dict[str, Any], tmp_path: Path) -> None:
    asked = [*ASKED, "--output", tmp_path, "--device", "cuda", "--dtype", "fp32", "--tp", 1]
    model.evaluate(*asked, env={"CUDA_VISIBLE_DEVICES": "0"}).check_success()
    check_answers(tmp_path, expected)
    check_metrics(evaluations.results_of(tmp_path), expected)


def kept(cache: Path) -> int:
    """How many answers a cache holds."""
    if not cache.exists() or not cache.stat().st_size:
        return 0
    with contextlib.closing(sqlite3.connect(cache, timeout=30)) as base:
        try:
            return base.execute("SELECT count(*) FROM answers").fetchone()[0]
        except sqlite3.OperationalError:  # the table is not there yet
            return 0


def test_a_stopped_run_continues_from_its_cache(
    model: EvaluatedModel, expected: dict[str, Any], tmp_path: Path
) -> None:
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
    check_answers(tmp_path, expected)
    results = evaluations.results_of(tmp_path)
    check_metrics(results, expected)
    summary = results["neoxrun"]
    assert summary["requests_from_cache"] == interrupted, "an answer was asked for twice"
    assert 5 < killed < interrupted < summary["requests"] == kept(cache)
