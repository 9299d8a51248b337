"""`neoxrun plan` as people see it, for devices that are not here."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command import neoxrun
from support.snapshots import Snapshot

PLANS = {
    "two 80 GB": (("--devices", "2x80GB"), "tensor parallel 2 x pipeline 1 x replicas 1, on 2 GPUs"),
    "one prompt": (("--devices", "2x80GB", "--prompts", "1"), "tensor parallel 2 x pipeline 1 x replicas 1"),
    "many prompts": (("--devices", "8x80GB", "--prompts", "10000"), "tensor parallel 2 x pipeline 1 x replicas 4"),
    "scoring": (("--devices", "2x80GB", "--score"), "tensor parallel 1 x pipeline 1 x replicas 2"),
    "small cards": (("--devices", "3x22GB"), "tensor parallel 1 x pipeline 3 x replicas 1"),
    "shorter context": (("--devices", "2x23GB"), "tensor parallel 2 x pipeline 1 x replicas 1"),
    "a known card": (("--devices", "2xH100"), "tensor parallel 2 x pipeline 1 x replicas 1, on 2 GPUs"),
    "flags": (("--devices", "2x80GB", "--tp", "1"), "tensor parallel 1 x pipeline 1 x replicas 2"),
}


@pytest.mark.parametrize("case", PLANS)
def test_plan(case: str, tmp_path: Path, snapshot: Snapshot) -> None:
    arguments, split = PLANS[case]
    result = neoxrun("plan", "20B", *arguments, cwd=tmp_path).check_success()
    assert result.out.splitlines()[1].startswith(split)
    snapshot(result)
