"""The three number formats of a run."""

from __future__ import annotations

import pytest

from neoxrun.config.precisions import DeviceKind, Precisions, nonfinite_hint, precisions_for, preferred_precisions
from neoxrun.config.settings import Precision


def test_half_precision_is_cached_in_fp32_on_the_cpu_only() -> None:
    assert precisions_for("bf16", "cpu") == Precisions(weights="bf16", compute="bf16", cache="fp32")
    assert precisions_for("bf16", "cuda") == Precisions(weights="bf16", compute="bf16", cache="bf16")


@pytest.mark.parametrize(
    ("requested", "kind", "weights"),
    [
        (None, "cuda", ["fp16"]),
        (None, "cpu", ["fp32", "bf16"]),
        ("fp32", "cuda", ["fp32"]),
        ("fp16", "cpu", ["fp16"]),
    ],
)
def test_a_request_decides_then_the_configuration_on_a_gpu(
    requested: Precision | None, kind: DeviceKind, weights: list[Precision]
) -> None:
    preferred = preferred_precisions(requested, "fp16", kind)
    assert list(preferred) == [precisions_for(precision, kind) for precision in weights]


@pytest.mark.parametrize(
    ("requested", "configured", "weights"),
    [
        (None, "fp16", ["bf16"]),
        (None, "bf16", ["bf16"]),
        (None, "fp32", ["fp32", "bf16"]),
        ("fp32", "fp16", ["fp32"]),
    ],
)
def test_a_cpu_with_bf16_uses_it_for_models_in_16_bits(
    requested: Precision | None, configured: Precision, weights: list[Precision]
) -> None:
    preferred = preferred_precisions(requested, configured, "cpu", native_bf16=True)
    assert list(preferred) == [precisions_for(precision, "cpu") for precision in weights]


def test_the_hint_about_nan_fits_the_format() -> None:
    assert "--dtype bf16 or --dtype fp32" in nonfinite_hint("fp16")
    assert nonfinite_hint("bf16").startswith("bf16 hardly ever overflows")
    for precision in ("fp16", "bf16", "fp32"):
        assert "download --verify" in nonfinite_hint(precision)
