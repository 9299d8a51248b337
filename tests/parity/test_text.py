"""The stored greedy texts of the reference checkpoints, through the real command."""

from __future__ import annotations

import json

import pytest

from support.command import neoxrun
from support.paths import FIXTURES

SPLITS = [
    ("tp1", 1, 1),
    ("tp1_full_rotary_erf", 1, 1),
    ("tp1_sequential_residual", 1, 1),
    ("tp2_native", 2, 1),
    ("tp2_native", 1, 1),
    ("tp2_native", 1, 2),
    ("tp2_native", 4, 1),
    ("tp2_sequential", 2, 1),
    ("tp2_sequential", 1, 1),
    ("upstream_tp2_pp2", 2, 2),
]


@pytest.mark.parametrize(("name", "tp", "pp"), SPLITS)
def test_stored_text(name: str, tp: int, pp: int) -> None:
    """At the split that it was computed with, and at others."""
    folder = FIXTURES / name
    (stored,) = json.loads((folder / "greedy.json").read_text())
    arguments = ("--maximum-tokens", stored["length"], "--tp", tp, "--pp", pp, "-o", "-")
    result = neoxrun("generate", folder / "config.yml", "--prompt", stored["context"], *arguments)
    (record,) = result.check_success().records
    for key in ("context", "text", "length", "finished", "message"):
        assert record[key] == stored[key]
    assert "warning" not in result.err


def test_averaged_norms_give_another_text_and_a_warning() -> None:
    folder = FIXTURES / "tp2_native"
    (stored,) = json.loads((folder / "greedy.json").read_text())
    arguments = ("--maximum-tokens", stored["length"], "--tp", 1, "--merge", "average", "-o", "-")
    result = neoxrun("generate", folder / "config.yml", "--prompt", stored["context"], *arguments)
    (record,) = result.check_success().records
    assert record["text"] != stored["text"]
    assert (
        "warning: the norms of the checkpoint's 2 tensor-parallel ranks differ and are averaged, which changes the "
        "results a little; --tp 2 computes them as they are\n"
    ) in result.err
