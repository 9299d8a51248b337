"""A report whose every number is known."""

from __future__ import annotations

import pytest

from neoxrun.benchmark.cases import Case
from neoxrun.benchmark.floors import Hardware
from neoxrun.benchmark.report import CaseResult, LoadResult, Report


@pytest.fixture
def report() -> Report:
    """As of two ranks on GPUs."""
    return Report(
        model="20B",
        parameters=20_554_567_680,
        dtype="fp16",
        tp=2,
        pp=1,
        device="NVIDIA H100 80GB HBM3",
        threads=None,
        versions={"neoxrun": "0.1.0", "torch": "2.11.0"},
        eager=False,
        hardware=Hardware(3.0e12, 7.9e14),
        ready_seconds=14.24,
        first_token_seconds=15.5,
        load=LoadResult(5.0, 41_100_000_000, "page cache", {"disk": 1.5e9, "page cache": 1.2e10}),
        results=(
            CaseResult(Case("decode", (32,), (96,)), 110.7, 148.0, "reading"),
            CaseResult(Case("decode", (32,) * 16, (96,) * 16), 1669.0, 2368.0, "reading"),
            CaseResult(Case("prefill", (1024,) * 16, (1,) * 16), 25674.0, 38000.0, "computing"),
            CaseResult(Case("mixed", (20, 400), (8, 256)), 3910.0, 7350.0, "computing"),
        ),
        peaks=(71_200_000_000, 71_100_000_000),
    )
