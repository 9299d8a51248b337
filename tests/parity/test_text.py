"""The stored greedy texts of the reference checkpoints, through the real command."""

from __future__ import annotations

import json

import pytest

from support.command import neoxrun
from support.paths import FIXTURES

SPLITS = {
    "tp1": (),
    "tp1_full_rotary_erf": (),
    "tp1_sequential_residual": (),
    "tp2_native": ("--tp", 2),
    "tp2_sequential": ("--tp", 2),
    "upstream_tp2_pp2": ("--tp", 2, "--pp", 2),
}


@pytest.mark.parametrize("name", SPLITS)
def test_stored_text(name: str) -> None:
    folder = FIXTURES / name
    (stored,) = json.loads((folder / "greedy.json").read_text())
    arguments = ("--maximum-tokens", stored["length"], *SPLITS[name], "-o", "-")
    result = neoxrun("generate", folder / "config.yml", "--prompt", stored["context"], *arguments)
    (record,) = result.check_success().records
    for key in ("context", "text", "length", "finished", "message"):
        assert record[key] == stored[key]
