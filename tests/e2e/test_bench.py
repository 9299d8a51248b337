"""`neoxrun bench` as a user runs it, on the demo model and the CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from support.command import neoxrun, running

CASES = [("decode", 1), ("decode", 16), ("decode", 64), ("prefill", 4), ("mixed", 64)]


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for one in value.values() for number in numbers_in(one)]
    if isinstance(value, list):
        return [number for one in value for number in numbers_in(one)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize("tp", [1, 2])
def test_json(tp: int) -> None:
    result = neoxrun("bench", "demo", "--device", "cpu", "--tp", tp, "--dtype", "fp32", "--json").check_success()
    report = json.loads(result.out)
    memory = report.pop("memory")
    assert [one["rank"] for one in memory] == list(range(tp))
    assert all(10**7 < one["peak_bytes"] < 2 * 10**9 for one in memory)
    numbers = numbers_in(report)
    assert len(numbers) > 40
    assert all(math.isfinite(number) and number > 0 for number in numbers), report
    assert (report["model"], report["weights"], report["tp"], report["dtype"]) == ("demo", "checkpoint", tp, "fp32")
    start, load, *cases = report["results"]
    assert (start["what"], load["what"]) == ("start", "load")
    assert load["seconds"] < start["seconds"] < start["first_token_seconds"] < result.seconds
    assert load["bytes"] > 6_000_000
    assert [(case["what"], case["batch"]) for case in cases] == CASES
    for case in cases:
        # The demo's weights fit a CPU's caches, which are faster than its memory.
        assert 0 < case["floor_share"] < 3, case
        assert case["floor_bound"] in ("reading", "computing")
    assert result.err.splitlines()[-1].startswith("measured in ")


def test_the_table() -> None:
    result = neoxrun("bench", "demo", "--device", "cpu", "--random-weights", "--dtype", "fp32").check_success()
    lines = result.out.splitlines()
    assert lines[0] == "demo: 3,456,000 parameters in fp32, random weights"
    assert [line.split(",")[0] for line in lines if "%" in line] == [what for what, _ in CASES]
    assert lines[-1].startswith("peak memory of rank 0: ")


def test_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is optional: pip install 'neoxrun[plot]'")
    plot = tmp_path / "demo.png"
    result = neoxrun("bench", "demo", "--device", "cpu", "--eager", "--plot", plot).check_success()
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert result.out.splitlines()[1].startswith("tensor parallel 1 x pipeline 1, eager, on ")
    assert result.err.splitlines()[-1] == f"plot: {plot}"


def test_compared_with_transformers() -> None:
    pytest.importorskip("transformers", reason="transformers is what is measured")
    result = neoxrun("bench", "demo", "--device", "cpu", "--json", "-q", "--compare", "transformers").check_success()
    cases = json.loads(result.out)["results"][2:]
    for case in cases:
        ratio = case["tokens_per_second"] / case["transformers_tokens_per_second"]
        assert case["transformers_ratio"] == pytest.approx(ratio)
        assert 0.02 < ratio < 50, case
    assert result.err == ""


def test_a_comparison_of_two_ranks_is_refused() -> None:
    pytest.importorskip("transformers", reason="it is looked for first")
    neoxrun("bench", "demo", "--device", "cpu", "--tp", "2", "--compare", "transformers").check_error(2, "2 ranks")


@pytest.mark.parametrize("tp", [1, 2])
def test_ctrl_c(tp: int) -> None:
    with running("bench", "demo", "--device", "cpu", "--tp", tp) as command:
        assert command.process.stderr is not None
        while not command.process.stderr.readline().startswith(b"loaded "):
            assert command.process.poll() is None
        command.interrupt()
        result = command.finish(timeout=10)
        command.check_all_gone()
    result.check_error(130, "interrupted")


def test_eager_is_accepted_where_there_are_no_graphs() -> None:
    words = ("generate", "demo", "--prompt", "import os", "--tp", "1", "--temperature", "0", "--maximum-tokens", "8")
    assert neoxrun(*words, "--eager").check_success().out == neoxrun(*words).check_success().out
