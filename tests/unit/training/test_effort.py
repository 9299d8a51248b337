"""Operations a token, and the devices' peak."""

from __future__ import annotations

import pytest

from neoxrun.training.effort import Effort, peak_of


def test_frozen_parameters_take_four_operations_and_trained_ones_six() -> None:
    effort = Effort(frozen=1000, trained=10, peak=2e6)
    assert effort.operations_per_token == 4060
    assert effort.utilization(100.0) == pytest.approx(0.203)
    assert Effort(1000, 10, None).utilization(100.0) is None


def test_the_peak_is_that_of_the_data_sheet() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3", "bf16", 2) == 2 * 989e12
    assert peak_of("Tesla V100-SXM2-16GB", "bf16", 1) == 15.7e12  # it has no products in bf16
    assert peak_of("AMD EPYC", "bf16", 1) is None
