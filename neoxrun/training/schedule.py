"""The learning rate of each step, as GPT-NeoX computes it (megatron/learning_rates.py, AnnealingLR). No torch."""

from __future__ import annotations

import math

from neoxrun.config.training import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, step: int) -> float:
    """The rate of an optimizer step.

    GPT-NeoX counts a step after it is done, so that steps 1 and 2 of a warm-up have the same rate. Its cosine is not
    clamped: past ``decay_iters`` it rises again.

    Args:
        schedule: the peak, the warm-up and how the rate falls.
        step: from 1.
    """
    done = step - 1
    warmup = schedule.warmup_iters
    if warmup > 0 and done <= warmup:
        return schedule.lr * max(1, done) / warmup
    length = schedule.decay_iters - warmup
    return max(_decayed(schedule, (done - warmup) / length if length else 1.0), schedule.min_lr)


def _decayed(schedule: ScheduleConfig, share: float) -> float:
    """The rate after this share of the steps from the peak to ``decay_iters``; more than 1 past them."""
    if schedule.style == "cosine":
        return schedule.min_lr + (schedule.lr - schedule.min_lr) / 2 * (math.cos(math.pi * share) + 1)
    if schedule.style == "linear":
        return schedule.lr * (1 - share)
    if schedule.style == "exponential":
        return schedule.lr * math.exp(-0.693 * share)
    return schedule.lr
