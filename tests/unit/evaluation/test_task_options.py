"""Task files that lm-eval would fail on, or pass over a mistake in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from neoxrun.errors import DataError
from neoxrun.evaluation.task_options import check_group, check_options
from support.colours import TASK

ACC = {"metric": "acc", "aggregation": "mean"}


def check(folder: Path, changed: dict[str, Any], more: str = "") -> None:
    values = {key: value for key, value in (TASK | changed).items() if value is not None}
    (folder / "mine.yaml").write_text(yaml.safe_dump(values) + more)
    check_options("mine", folder / "mine.yaml")


@pytest.mark.parametrize(
    ("changed", "says", "hint"),
    [
        ({"doc_to_txt": "x"}, "unknown option doc_to_txt", "Did you mean doc_to_text?"),
        ({"doc_to_text": None}, "doc_to_text of the task mine: it is missing", "guide"),
        ({"doc_to_target": None}, "doc_to_target of the task mine: it is missing", "guide"),
        ({"doc_to_choice": None}, "doc_to_choice of the task mine: it is missing", "guide"),
        ({"dataset_path": None}, "dataset_path of the task mine: it is missing", "guide"),
        ({"output_type": "multiple_choise"}, "'multiple_choise' is not known", "Did you mean multiple_choice?"),
        ({"repeats": 0}, "0 is not a whole number of 1 or more", None),
        ({"metric_list": [{"metric": "acc_nrom"}]}, "'acc_nrom' is not known", "Did you mean acc_norm?"),
        ({"metric_list": [ACC | {"aggregation": "maen"}]}, "'maen' is not known", "Did you mean mean?"),
        ({"metric_list": "acc"}, "each entry must be a mapping with `metric`", None),
        (
            {"metric_list": [{"metric": "mine"}], "process_results": "x"},
            "the metric mine has no aggregation",
            "aggregation: mean",
        ),
        ({"filter_list": [{"name": "x", "filter": [{"function": "regexp"}]}]}, "'regexp' is not known", "regex"),
        ({"filter_list": [{"filter": []}]}, "each entry must be a mapping with `name`", None),
    ],
)
def test_wrong_options(changed: dict[str, Any], says: str, hint: str | None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says) as caught:
        check(tmp_path, changed)
    assert caught.value.code == "bad_task"
    assert (caught.value.where or "").startswith(str(tmp_path / "mine.yaml"))
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("changed", "more"),
    [
        ({}, ""),
        ({"metric_list": None}, ""),
        ({"metric_list": [ACC], "output_type": None, "doc_to_choice": None}, ""),
        ({"class": "MyTask", "own_option": 1}, ""),
        # A module of functions may add filters and metrics to lm-eval's.
        (
            {"filter_list": [{"name": "x", "filter": [{"function": "mine"}]}]},
            "process_results: !function utils.process\n",
        ),
        ({"metric_list": None}, "metric_list: [{metric: !function utils.m, aggregation: !function utils.a}]\n"),
    ],
)
def test_right_options(changed: dict[str, Any], more: str, tmp_path: Path) -> None:
    check(tmp_path, changed, more)


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        (
            "aggregate_metric_lst: []\n",
            "the group all has an unknown option aggregate_metric_lst",
            "aggregate_metric_list",
        ),
        ("num_fewshots: 3\n", "the group all has an unknown option num_fewshots", "Did you mean num_fewshot?"),
        ("", "a member of the group all has an unknown option doc_to_txt", "Did you mean doc_to_text?"),
    ],
)
def test_options_of_groups(text: str, says: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    member = "{task: piqa, doc_to_txt: x}" if not text else "{task: piqa, num_fewshot: 2}"
    path.write_text(f"group: all\ntask: [colours, {member}]\nmetadata: {{version: 1}}\n{text}")
    with pytest.raises(DataError, match=says) as caught:
        check_group("all", path)
    assert hint in (caught.value.hint or "")
    assert (caught.value.where or "").startswith(str(path))


def test_the_line_of_an_option_in_an_included_file(tmp_path: Path) -> None:
    (tmp_path / "common").write_text("# common\ndoc_to_txt: x\n")
    with pytest.raises(DataError, match="unknown option") as caught:
        check(tmp_path, {"include": "common"})
    assert caught.value.where == f"{tmp_path}/common:2"
