"""The picture of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.errors import DataError
from neoxrun.training.loss_plot import _running_mean, draw_losses

RECORDS = [{"step": step, "loss": 5 / step, "lr": 1e-3, "grad_norm": 1.0} for step in range(1, 150)]


def test_losses_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "loss.svg"
    draw_losses([*RECORDS, {"step": 100, "eval_loss": 2.0}, {"step": 150, "loss": None}], "a run", path)
    drawn = path.read_text()
    for words in ("a run", "training, running mean", "evaluation", "gradient norm", "learning rate"):
        assert f"<!-- {words} -->" in drawn
    draw_losses(RECORDS[:5], "a run", path)
    assert "running mean" not in path.read_text()


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(DataError, match="cannot be written") as error:
        draw_losses(RECORDS, "a run", tmp_path / "none" / "loss.png")
    assert "--output" in str(error.value.hint)


def test_a_running_mean_has_no_pull_to_its_beginning() -> None:
    assert _running_mean([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert 1.0 < _running_mean([1.0] * 50 + [3.0])[-1] < 1.2
