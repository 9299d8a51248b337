"""The learning rate's schedule of a run of GPT-NeoX that is continued, next to the configuration's. No torch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

from neoxrun.checkpoint.neox_run import NeoxRun
from neoxrun.config.training import DecayStyle, ScheduleConfig
from neoxrun.errors import UsageError

ScheduleChoice = Literal["same", "configuration", "checkpoint"]
"""Whose schedule of the learning rate counts: they have to be the same, as GPT-NeoX has it without further options."""


def schedule_of_run(run: NeoxRun, made: ScheduleConfig, choice: ScheduleChoice) -> ScheduleConfig:
    """The schedule of the learning rate, which GPT-NeoX compares with the checkpoint's (``AnnealingLR``).

    Args:
        run: GPT-NeoX's.
        made: that of the configuration.
        choice: whose counts.

    Raises:
        UsageError: the two have to be the same, and are not; or the checkpoint's cannot be used.
    """
    saved, values = run.schedule, _values(made)
    if choice == "configuration":
        return made
    if choice == "checkpoint":
        if lacking := [name for name in values if not _possible(name, saved.get(name))]:
            raise UsageError(
                "use_checkpoint_lr_scheduler asks for the schedule in the checkpoint, which has no usable "
                f"{lacking[0]}",
                code="conflicting_options",
                where=str(run.ranks[0]),
                hint="Leave use_checkpoint_lr_scheduler out: the configuration's schedule counts then.",
            )
        return replace(
            made,
            lr=saved["start_lr"],
            min_lr=saved["min_lr"],
            style=saved["decay_style"],
            warmup_iters=_at_least_one(saved["warmup_iter"]),
            decay_iters=saved["end_iter"],
        )
    unlike = [
        f"{name} was {saved[name]}, is {value}"
        for name, value in values.items()
        if name in saved and not _equal(saved[name], value, name)
    ]
    if unlike:
        raise UsageError(
            f"the learning rate has another schedule than in the run to be continued: {'; '.join(unlike)}",
            code="conflicting_options",
            where=str(run.ranks[0]),
            hint="Give the same lr, min_lr, warmup, lr_decay_iters and lr_decay_style, or set "
            "override_lr_scheduler: true for the new schedule, or use_checkpoint_lr_scheduler: true for the old.",
        )
    return made


def schedule_warnings(run: NeoxRun, choice: ScheduleChoice) -> list[str]:
    """What to tell people where the schedule has to be that of the run, and the files do not tell it."""
    if choice != "same" or run.schedule:
        return []
    return ["the checkpoint does not tell the schedule of the learning rate: the configuration's counts"]


def _values(schedule: ScheduleConfig) -> dict[str, float | str]:
    """A schedule under the names of GPT-NeoX's ``AnnealingLR``."""
    return {
        "start_lr": schedule.lr,
        "min_lr": schedule.min_lr,
        "warmup_iter": schedule.warmup_iters,
        "end_iter": schedule.decay_iters,
        "decay_style": schedule.style,
    }


def _equal(saved: object, value: float | str, name: str) -> bool:
    if isinstance(value, str) or not isinstance(saved, int | float):
        return saved == value
    return math.isclose(_at_least_one(saved) if name == "warmup_iter" else saved, value)


def _possible(name: str, saved: object) -> bool:
    """Whether a value of ``AnnealingLR``'s can be that of a schedule."""
    if name == "decay_style":
        return saved in get_args(DecayStyle)
    above_zero = name in ("start_lr", "end_iter")
    return isinstance(saved, int | float) and math.isfinite(saved) and (saved > 0 if above_zero else saved >= 0)


def _at_least_one(warmup: float) -> float:
    """A warm-up shorter than one step, which is one step here."""
    return max(1.0, warmup) if warmup else 0.0
