"""Learning rates against those of GPT-NeoX's own scheduler."""

from __future__ import annotations

import json
from typing import Any

import pytest

from neoxrun.config.training import ScheduleConfig
from neoxrun.training.schedule import learning_rate
from support.paths import shared_folder

FILE = shared_folder() / "fixtures-train" / "lr_schedules.json"


def _schedule(row: dict[str, Any]) -> ScheduleConfig:
    return ScheduleConfig(
        lr=row["lr"],
        min_lr=row["min_lr"],
        style=row["lr_decay_style"],
        warmup_iters=row["warmup"] * row["lr_decay_iters"],
        decay_iters=row["lr_decay_iters"],
    )


@pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not here")
@pytest.mark.parametrize("number", range(8))
def test_the_rates_are_gpt_neox_s(number: int) -> None:
    """Every style, a warm-up of 1.5 steps, one shorter than a step, none, and rates past the end of the decay."""
    rows = json.loads(FILE.read_text())
    assert len(rows) == 8
    row = rows[number]
    rates = [learning_rate(_schedule(row), step) for step in range(1, len(row["lr_of_step"]) + 1)]
    assert rates == pytest.approx(row["lr_of_step"], rel=1e-12)


def test_the_peak_and_the_end() -> None:
    """The same without the file: the ends of a warm-up over 4 of 20 steps."""
    schedule = ScheduleConfig(lr=1e-3, min_lr=1e-4, style="cosine", warmup_iters=4.0, decay_iters=20)
    rates = [learning_rate(schedule, step) for step in range(1, 22)]
    assert rates[:5] == [2.5e-4, 2.5e-4, 5e-4, 7.5e-4, 1e-3]
    assert rates[12] == pytest.approx(5.5e-4, rel=1e-12)
    assert rates[20] == pytest.approx(1e-4, rel=1e-12)


@pytest.mark.parametrize("style", ["cosine", "linear"])
def test_a_warm_up_as_long_as_the_decay_ends_at_the_least_rate(style: Any) -> None:
    schedule = ScheduleConfig(lr=1.0, min_lr=0.1, style=style, warmup_iters=2.0, decay_iters=2)
    assert [learning_rate(schedule, step) for step in (3, 4)] == [1.0, 0.1]
