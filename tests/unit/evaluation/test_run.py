"""The end of a run: results are shown and kept, or it is said why not."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
import types
from pathlib import Path
from typing import IO, Any

import pytest

from neoxrun.errors import DataError
from neoxrun.evaluation import report
from neoxrun.evaluation import run as evaluation
from neoxrun.evaluation.options import EvaluateOptions
from support.results import results


def ended(options: dict[str, Any], stdout: IO[str] | None = None) -> str:
    """What is on stdout when a run's results have been shown and kept, or could not be."""
    document = results(0.77, limited=None) | {"model_name_sanitized": "demo"}
    usual = dict.fromkeys(field.name for field in dataclasses.fields(EvaluateOptions)) | {"references": ()}
    stdout = stdout or io.StringIO()
    sample = {"arguments": [], "resps": [], "filtered_resps": [], "target": 0}
    try:
        evaluation._report(document, {"mine/piqa": [sample]}, EvaluateOptions(**usual | options), stdout)
    except DataError as error:
        stdout.write(error.render())
    return stdout.getvalue()


def test_results_that_cannot_be_kept_are_shown(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = ended({"output": tmp_path / "file"})
    assert said.index("0.7700") < said.index("the results cannot be written")


def test_results_that_nobody_reads_are_kept(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError), os.fdopen(writer, "w") as stdout:
        ended({"output": tmp_path}, stdout)
    assert list(tmp_path.glob("demo/results_*.json"))


def test_results_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    ended({"output": tmp_path, "log_samples": True})
    names = sorted(path.name.partition("_20")[0] for path in (tmp_path / "demo").iterdir())
    assert names == ["results", "samples_mine%2Fpiqa"]
    document = {"model_name_sanitized": "other", "value": object()}
    with pytest.raises(TypeError):
        report.save_results(tmp_path, document, {}, json.JSONEncoder().default)
    broken = [{"arguments": [], "resps": [], "filtered_resps": [], "target": 0, "doc": object()}]
    with pytest.raises(TypeError):
        report.save_results(tmp_path, {"model_name_sanitized": "other"}, {"piqa": broken}, json.JSONEncoder().default)
    assert [path.name.partition("_")[0] for path in (tmp_path / "other").iterdir()] == ["results"]


def test_a_failure_of_wandb_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**how: Any) -> None:
        raise RuntimeError("api_key not configured")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    said = ended({"wandb": "project"})
    assert said.index("0.7700") < said.index("api_key not configured") < said.index("wandb login")
