"""Errors of a task's own code have its name and the document's number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval import evaluator_utils
from lm_eval.evaluator import evaluate
from lm_eval.models.dummy import DummyLM

from neoxrun.errors import DataError
from neoxrun.evaluation import data
from neoxrun.evaluation.named_errors import named_errors
from support.task_data import own_task, write_lines


def fail(*arguments: Any) -> Any:
    raise ZeroDivisionError("by zero")


def fail_at_two(document: dict[str, Any], answers: Any) -> dict[str, float]:
    return {"acc": 1 / (document["text"] != "two")}


@pytest.mark.parametrize(
    ("broken", "replacement", "says", "line"),
    [
        ("process_results", fail_at_two, r"cannot score document 2 \(counted from 0\) of mine: ZeroDivisionError", 7),
        ("apply_filters", fail, "cannot apply the filters of mine to its answers: ZeroDivisionError", 8),
        (
            "aggregation",
            lambda: {"acc": fail, "perplexity": fail},
            "cannot compute the metrics of mine: ZeroDivision",
            None,
        ),
    ],
)
def test_late_errors(
    broken: str, replacement: Any, says: str, line: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tasks" / "mine.yaml"
    filters = "filter_list: [{name: first, filter: [{function: take_first}]}]"
    write_lines(file, *own_task("mine", "process_results: !function code.score", filters))
    write_lines(tmp_path / "tasks" / "code.py", "def score(document, answers):", "    return {'acc': 1.0}")
    write_lines(tmp_path / "me" / "words" / "test.jsonl", *({"text": word} for word in ("zero", "one", "two", "three")))
    tasks = data.prepare_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks").task_dict
    monkeypatch.setattr(tasks["tasks"]["mine"], broken, replacement)
    original = evaluator_utils._compute_task_aggregations
    with pytest.raises(DataError, match=says) as caught, named_errors(tasks["tasks"], {"mine": file}):
        evaluate(DummyLM(), tasks, bootstrap_iters=0)
    assert caught.value.code == "bad_task"
    assert caught.value.where == (str(file) if line is None else f"{file}:{line}")
    assert evaluator_utils._compute_task_aggregations is original
