"""Whose schedule of the learning rate counts, where a run of GPT-NeoX is continued."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neoxrun.checkpoint.neox_schedule import schedule_of_run, schedule_warnings
from neoxrun.config.settings import Settings
from neoxrun.config.training import ScheduleConfig
from neoxrun.errors import UsageError
from support.neox_optimizers import SCHEDULE, found_run, save_states

MADE = ScheduleConfig(lr=1e-3, min_lr=1e-4, style="cosine", warmup_iters=4.0, decay_iters=20)


def test_the_schedule_of_the_learning_rate(settings: Settings, step: Path) -> None:
    save_states(step)
    run = found_run(settings)
    assert schedule_of_run(run, MADE, "same") == MADE
    other = replace(MADE, min_lr=0.0, decay_iters=30, style="linear")
    with pytest.raises(UsageError) as error:
        schedule_of_run(run, other, "same")
    for words in ("min_lr was 0.0001, is 0.0", "end_iter was 20, is 30", "decay_style was cosine, is linear"):
        assert words in error.value.message
    assert "start_lr" not in error.value.message
    assert schedule_of_run(run, other, "configuration") == other
    assert schedule_of_run(run, other, "checkpoint") == MADE
    short: dict[str, Any] = SCHEDULE | {"warmup_iter": 0.2}
    save_states(step, schedule=short)
    one = replace(MADE, warmup_iters=1.0)
    assert schedule_of_run(found_run(settings), one, "same") == one
    assert schedule_of_run(found_run(settings), MADE, "checkpoint") == one
    assert schedule_warnings(found_run(settings), "same") == []


def test_a_checkpoint_without_a_usable_schedule(settings: Settings, step: Path) -> None:
    save_states(step, schedule={})
    run = found_run(settings)
    assert schedule_of_run(run, MADE, "same") == MADE
    (warning,) = schedule_warnings(run, "same")
    assert "does not tell the schedule" in warning
    assert schedule_warnings(run, "configuration") == []
    for name, value in (
        ("start_lr", float("nan")),
        ("min_lr", -1.0),
        ("warmup_iter", "4"),
        ("end_iter", 0),
        ("decay_style", "stairs"),
        ("decay_style", None),
    ):
        save_states(step, schedule=SCHEDULE | {name: value})
        with pytest.raises(UsageError, match=f"which has no usable {name}"):
            schedule_of_run(found_run(settings), MADE, "checkpoint")
