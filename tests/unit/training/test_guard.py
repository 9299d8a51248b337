"""Losses that end a run."""

from __future__ import annotations

import math
import random

import pytest

from neoxrun.config.settings import Precision
from neoxrun.training.guard import LossGuard, MicroLoss, rows_of


def trained(steps: int, level: float = 3.0, spread: float = 0.1) -> LossGuard:
    guard, numbers = LossGuard("bf16"), random.Random(0)
    for _ in range(steps):
        assert guard.accepts(level + numbers.uniform(-spread, spread), 1.0)
    return guard


@pytest.mark.parametrize("level", [0.01, 0.5, 3.0, 11.0])
def test_ordinary_noise_is_no_spike(level: float) -> None:
    guard, numbers = LossGuard("bf16"), random.Random(1)
    for step in range(500):
        assert guard.accepts(level * (1 + 0.3 * numbers.gauss(0, 1)) + (0.9 if step == 400 else 0.0), 1.0)


def test_a_spike_is_a_loss_far_above_those_before_it() -> None:
    guard = trained(30)
    assert guard.accepts(5.5, 1.0)
    assert not trained(30).accepts(6.5, 1.0)
    assert trained(19).accepts(60.0, 1.0)  # too early to tell


def test_spikes_can_be_allowed_but_not_what_is_no_number() -> None:
    guard = LossGuard("bf16", stop_at_spike=False)
    for _ in range(30):
        guard.accepts(1.0, 1.0)
    assert guard.accepts(100.0, 1.0)
    assert not guard.accepts(math.nan, 1.0)
    assert not guard.accepts(1.0, math.inf)
    assert guard.accepts(1.0, None)


def test_the_error_names_step_rows_and_rank() -> None:
    parts = [MicroLoss(0, range(8, 10), 3.0), MicroLoss(1, range(10, 12), math.nan), MicroLoss(0, range(12, 14), 9.0)]
    error = trained(30).error(3, math.nan, 1.0, parts, "global_step2 is kept.")
    assert error.code == "diverged"
    assert error.message == (
        "the loss of step 3 is not a number: it is nan for rows 10 to 11 of the training data, on rank 1"
    )
    assert str(error.hint).endswith("global_step2 is kept.")
    spike = trained(30).error(3, 8.0, 1.0, [parts[0], MicroLoss(1, range(10, 11), 13.0)], "")
    assert "has jumped to 8.0000 in step 3, from 3.0" in spike.message
    assert "13.0000, for row 10 of the training data, on rank 1" in spike.message
    gradients = trained(30).error(3, 3.0, math.inf, [parts[0]], "")
    assert "the gradients of step 3 are not numbers" in gradients.message
    total = trained(30).error(3, math.inf, 1.0, [parts[0]], "")
    assert "the loss of step 3 is inf, although" in total.message


def test_a_run_that_is_continued_knows_the_losses_before() -> None:
    whole = trained(70)
    resumed = LossGuard("bf16")
    resumed.remember(whole.recent)
    assert resumed.bound == whole.bound
    assert len(whole.recent) == 50
    assert not resumed.accepts(6.5, 1.0)


@pytest.mark.parametrize(
    ("precision", "cure"),
    [
        ("fp16", "Lower --lr, or use --dtype bf16 or fp32. None."),
        ("bf16", "Lower --lr, or use --dtype fp32. None."),
        ("fp32", "Lower --lr. None."),
    ],
)
def test_what_to_do_about_nan_fits_the_number_format(precision: Precision, cure: str) -> None:
    guard = LossGuard(precision)
    part = MicroLoss(0, range(8, 10), math.nan)
    assert guard.error(3, math.nan, 1.0, [part], "None.").hint == cure
    assert guard.error(3, math.inf, 1.0, [part._replace(loss=1.0)], "None.").hint == cure
    assert guard.error(3, 1.0, math.nan, [part._replace(loss=1.0)], "None.").hint == cure
    evaluated = guard.evaluation_error(3, math.nan, "None.")
    assert evaluated.hint == cure
    assert evaluated.message == "the loss of the evaluation after 3 steps is nan"


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_before_the_first_update_the_learning_rate_is_not_to_blame(precision: Precision) -> None:
    guard = LossGuard(precision)
    for error in (
        guard.error(1, math.nan, 1.0, [MicroLoss(0, range(8, 10), math.nan)], "None."),
        guard.evaluation_error(0, math.inf, "None."),
    ):
        assert "the weights may be damaged" in str(error.hint)
        assert "--lr" not in str(error.hint)


def test_micro_batches_cover_the_rows_of_a_step_as_gpt_neox_deals_them_out() -> None:
    dealt = [
        list(rows_of(5, micro, replica, replicas=2, micro_batch_size=3, batch_size=12))
        for micro in range(2)
        for replica in range(2)
    ]
    assert dealt == [[60, 61, 62], [63, 64, 65], [66, 67, 68], [69, 70, 71]]
