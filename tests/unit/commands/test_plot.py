"""``neoxrun plot``: a picture of a run, or why there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neoxrun.cli import main


def run_with(path: Path, *losses: float) -> Path:
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in enumerate(losses, 1)]
    (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return path


def test_the_picture_goes_into_the_run_or_where_it_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    run = run_with(tmp_path, 3.0, 2.0)
    assert main(["plot", str(run)]) == 0
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", str(run), "-o", str(tmp_path / "x.pdf")]) == 0
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    assert f"losses of 2 steps: {tmp_path}/x.pdf" in capsys.readouterr().err


def test_what_cannot_be_drawn_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(tmp_path)]) == 4
    assert "no metrics.jsonl" in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    assert main(["plot", str(run_with(tmp_path))]) == 4
    assert "has made no step yet" in capsys.readouterr().err
    assert main(["plot", str(run_with(tmp_path, 1.0)), "-o", str(tmp_path / "x.jpeg")]) == 2
    assert "--output" in capsys.readouterr().err
    (tmp_path / "mine.png").write_bytes(b"mine")
    assert main(["plot", str(tmp_path), "-o", str(tmp_path / "mine.png")]) == 4
    assert "is not a plot of neoxrun" in capsys.readouterr().err
