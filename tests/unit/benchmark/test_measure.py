"""Rates: which tokens count, between which moments."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from neoxrun.benchmark import measure
from neoxrun.benchmark.cases import Case
from neoxrun.benchmark.measure import answer_case, median_rate
from support.tiny_models import random_replica

Events = list[tuple[int, str | None]]


class Scripted:
    """An engine whose steps, and how long each takes, are known."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[float, Events]]) -> None:
        self.now = 100.0
        self.added: list[tuple[int, list[int], int, bool]] = []
        self._steps = deque(steps)
        monkeypatch.setattr(measure.time, "perf_counter", lambda: self.now)

    def add(self, request_id: int, prompt: list[int], params: Any) -> None:
        self.added.append((request_id, prompt, params.maximum_tokens, params.ignore_eos))

    def step(self) -> list[Any]:
        if not self._steps:
            return []
        seconds, events = self._steps.popleft()
        self.now += seconds
        return [SimpleNamespace(request_id=number, finish_reason=reason) for number, reason in events]


def test_decoding_counts_the_steps_that_have_all_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[float, Events]] = [
        (9.0, [(0, None)]),  # its prompt
        (7.0, [(0, None), (1, None)]),  # the other prompt: now both are there
        (0.5, [(0, None), (1, None)]),
        (0.5, [(0, "length"), (1, None)]),
        (3.0, [(1, "length")]),
    ]
    engine = Scripted(monkeypatch, steps)
    rate = answer_case(engine, Case("decode", (2, 2), (4, 4)), [[5, 6], [7, 8]])  # type: ignore[arg-type]
    assert rate == 4 / 1.0
    assert engine.added == [(0, [5, 6], 4, True), (1, [7, 8], 4, True)]


@pytest.mark.parametrize(("what", "rate"), [("prefill", 5 / 2.5), ("mixed", 4 / 2.5)])
def test_other_cases_are_timed_whole(what: Any, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[float, Events]] = [(2.0, [(0, None), (1, None)]), (0.5, [(0, "length"), (1, "length")])]
    engine = Scripted(monkeypatch, steps)
    assert answer_case(engine, Case(what, (2, 3), (2, 2)), [[5, 6], [7, 8, 9]]) == rate  # type: ignore[arg-type]


def test_answers_of_one_token_have_no_steady_part(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Scripted(monkeypatch, [(2.0, [(0, "length")])])
    assert answer_case(engine, Case("decode", (2,), (1,)), [[5, 6]]) == 1 / 2.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "median"),
    [([0.1, 0.4, 0.2, 0.1, 0.1, 0.5], 10), ([2.5, 0.1], 0.4), ([1.0, 1.5, 9.0], (1 + 1 / 1.5) / 2)],
    ids=["five rounds at the most", "a slow case once", "two seconds"],
)
def test_the_median_of_the_rounds(seconds: list[float], median: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now, seeds = [50.0], []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def answer(seed: int) -> float:
        seeds.append(seed)
        now[0] += seconds[seed - 1]
        return 1 / seconds[seed - 1]

    assert median_rate(answer) == pytest.approx(median)
    assert seeds == list(range(1, len(seconds))) if len(seconds) > 2 else seeds == [1]


def test_a_real_engine() -> None:
    engine = random_replica(40, 32).start_engine(slots=4, length=32, ends=())
    for what in ("decode", "prefill", "mixed"):
        case = Case(what, (4,) * 4, (6,) * 4)
        assert answer_case(engine, case, case.draw(40, seed=1)) > 0
