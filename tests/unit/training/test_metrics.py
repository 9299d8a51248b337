"""Metrics as they are kept: whole lines, none of them twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.errors import DataError
from neoxrun.training.folder import RunFolder
from neoxrun.training.metrics import JsonLines, read_metrics


def test_lines_are_there_at_once_and_continue_from_a_checkpoint(tmp_path: Path) -> None:
    lines = JsonLines(RunFolder(tmp_path), "metrics.jsonl", 0)
    for step in (1, 2, 3):
        lines.add({"step": step, "loss": 1.5})
    lines.add({"step": 2, "eval_loss": 1.0})
    assert len(read_metrics(tmp_path)) == 4  # before it is closed
    lines.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    again = JsonLines(RunFolder(tmp_path), "metrics.jsonl", 2)
    again.add({"step": 3, "loss": 0.5})
    again.close()
    found = read_metrics(tmp_path)
    assert [(record["step"], record.get("loss")) for record in found] == [(1, 1.5), (2, 1.5), (2, None), (3, 0.5)]


def test_a_number_that_json_does_not_have_is_not_written(tmp_path: Path) -> None:
    lines = JsonLines(RunFolder(tmp_path), "metrics.jsonl", 0)
    with pytest.raises(ValueError, match="JSON compliant"):
        lines.add({"step": 1, "loss": float("nan")})
    lines.close()
    assert read_metrics(tmp_path) == []


def test_another_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no metrics\.jsonl") as error:
        read_metrics(tmp_path)
    assert error.value.code == "missing_file"
