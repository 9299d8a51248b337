"""What is wrong with a task file is found without lm-eval, with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation.task_values import check_values

VALUES = {"test_split": "test", "dataset_kwargs": {"data_files": {"test": "a.jsonl"}}}


@pytest.mark.parametrize(
    ("changed", "says", "line"),
    [
        ({"num_fewshot": -3}, "num_fewshot of the task mine: -3 is not a whole number", 4),
        ({"num_fewshot": "three"}, "'three' is not a whole number", 4),
        ({"num_fewshot": True}, "True is not a whole number", 4),
        ({"test_split": None}, "it is missing, and so is validation_split", 4),
        ({"test_split": "dev"}, "dev is not in its data_files, which have test", 4),
        ({"fewshot_split": "train[:5]"}, r"train\[:5\] is not in its data_files", 4),
        ({"dataset_kwargs": {"data_files": "a.jsonl"}}, "test is not in its data_files, which have train", 4),
    ],
)
def test_wrong_values(changed: dict[str, Any], says: str, line: int, tmp_path: Path) -> None:
    option = next(iter(changed)) if "split" in str(changed) or "few" in str(changed) else "test_split"
    path = tmp_path / "mine.yaml"
    path.write_text(f"task: mine\n# a remark\n\n{yaml.safe_dump({option: changed.get(option, 'test')})}")
    with pytest.raises(DataError, match=says) as caught:
        check_values("mine", VALUES | changed, path)
    assert (caught.value.code, caught.value.where) == ("bad_task", f"{path}:{line}")


@pytest.mark.parametrize("option", ["doc_to_image", "doc_to_audio"])
def test_what_is_not_text_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="only read text") as caught:
        check_values("pictures", VALUES | {option: "field"}, None)
    assert caught.value.code == "unsupported_task"


@pytest.mark.parametrize(
    "values",
    [
        VALUES | {"num_fewshot": 0, "fewshot_split": "test[:5]"},
        {"validation_split": "anything"},
        {"class": "MyTask"},
        {"test_split": "train", "dataset_kwargs": {"data_files": ["a.jsonl"]}},
    ],
)
def test_right_values(values: dict[str, Any]) -> None:
    check_values("mine", values, None)
