"""Running a case on an engine, its rate, and the median of several."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from neoxrun.benchmark.cases import Case
from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.engine import Engine

_SECONDS = 2.0
_ROUNDS = 5


def median_rate(answer: Callable[[int], float]) -> float:
    """The median of as many rounds as fit two seconds, at least one and at most five.

    Args:
        answer: carries out a round with the prompts of a seed, and returns its tokens a second. Every round has other
            prompts, since an engine remembers how prompts begin.
    """
    rates: list[float] = []
    end = time.perf_counter() + _SECONDS
    while not rates or (len(rates) < _ROUNDS and time.perf_counter() < end):
        rates.append(answer(len(rates) + 1))
    return statistics.median(rates)


def answer_case(engine: Engine, case: Case, prompts: list[list[int]]) -> float:
    """Answer the prompts of a case greedily, and return its tokens a second.

    When decoding, the clock runs from when the last sequence has its first token until the first sequence ends, so
    that every step has all of them; the other cases are timed whole.
    """
    for number, (prompt, new) in enumerate(zip(prompts, case.new, strict=True)):
        engine.add(number, prompt, SamplingParams(maximum_tokens=new, ignore_eos=True))
    unbegun = set(range(case.batch))
    start = time.perf_counter()
    begun: float | None = None
    steady, steady_seconds, ended = 0, 0.0, False
    while events := engine.step():
        now = time.perf_counter()
        if begun is not None and not ended:
            steady += len(events)
            steady_seconds = now - begun
        unbegun -= {event.request_id for event in events}
        ended |= any(event.finish_reason is not None for event in events)
        if not unbegun and begun is None:
            begun = now
    if case.what == "decode" and steady:
        return steady / steady_seconds
    return case.counted / (time.perf_counter() - start)
