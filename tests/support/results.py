"""A results file of one task, for what reads one."""

from __future__ import annotations

from typing import Any


def results(acc: float, stderr: float | str = 0.01, scored: int = 100, **added: Any) -> dict[str, Any]:
    metrics = {"alias": "piqa", "acc,none": acc, "acc_stderr,none": stderr, "sample_len": 100}
    return {
        "results": {"piqa": metrics},
        "n-shot": {"piqa": 0},
        "n-samples": {"piqa": {"effective": scored, "original": 100}},
        "neoxrun": {"data": {}} | added,
    }
