"""Requests are built before lm-eval asks for them, and only once."""

from __future__ import annotations

from pathlib import Path

import pytest
from lm_eval.evaluator import evaluate
from lm_eval.models.dummy import DummyLM

from neoxrun.errors import DataError
from neoxrun.evaluation import data
from neoxrun.evaluation.checks import build_requests, check_task
from support.task_data import own_task, write_lines


def test_requests_are_built_once(tmp_path: Path) -> None:
    """Even with examples that are drawn at random."""
    tasks = tmp_path / "tasks"
    write_lines(tasks / "mine.yaml", *own_task("mine", "training_split: train", "num_fewshot: 3"))
    for split, count in (("train", 30), ("test", 8)):
        write_lines(tmp_path / "me" / "words" / f"{split}.jsonl", *({"text": f"{split} {n}"} for n in range(count)))
    ours, theirs = (data.prepare_tasks(["mine"], tmp_path, include_path=tasks).task_dict for _ in range(2))
    for prepared in (ours, theirs):
        prepared["tasks"]["mine"].set_fewshot_seed(seed=3)
    build_requests("mine", ours["tasks"]["mine"], 0.5)
    built = list(ours["tasks"]["mine"].instances)
    for prepared in (ours, theirs):
        evaluate(DummyLM(), prepared, limit=0.5, bootstrap_iters=0)
    assert len(built) == 4
    assert all(one is other for one, other in zip(ours["tasks"]["mine"].instances, built, strict=True))
    assert [one.args for one in built] == [one.args for one in theirs["tasks"]["mine"].instances]
    assert "train" in built[0].args[0]


def test_what_cannot_be_built_is_reported(published: Path) -> None:
    task = data.prepare_tasks(["piqa"], published).task_dict["tasks"]["piqa"]
    task.set_config(key="doc_to_text", value="{{goal.of.what}}")
    with pytest.raises(
        DataError, match=r"piqa, at document 0 .*: 'str object' has no attribute 'of'; .* sol1,"
    ) as caught:
        build_requests("piqa", task, 2)
    assert caught.value.code == "bad_task"


def test_rows_without_text_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": "a"}, {"text": None}, *[{"text": " "}] * 6, {"text": "b"}]
    write_lines(tmp_path / "tasks" / "mine.yaml", *own_task("mine"))
    write_lines(tmp_path / "me" / "words" / "test.jsonl", *rows)
    task = data.prepare_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks").task_dict["tasks"]["mine"]
    check_task("mine", task, None)
    said = "7 documents of mine have no text under 'text': 1, 2, 3, 4, 5 and 2 more (counted from 0)"
    assert said in caplog.text
    caplog.clear()
    check_task("mine", task, 1)
    assert not caplog.text


def test_rows_with_empty_choices_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": "a", "c": choices} for choices in (["x", "y"], ["", ""], ["x", " "])]
    choices = ("output_type: multiple_choice", "doc_to_choice: c", "doc_to_target: 0")
    lines = [line for line in own_task("mine") if not line.startswith(("output_type", "doc_to_target"))]
    write_lines(tmp_path / "tasks" / "mine.yaml", *lines, *choices)
    write_lines(tmp_path / "me" / "words" / "test.jsonl", *rows)
    task = data.prepare_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks").task_dict["tasks"]["mine"]
    build_requests("mine", task, None)
    said = "2 documents of mine have a choice or an answer without text: 1, 2 (counted from 0)"
    assert said in caplog.text
