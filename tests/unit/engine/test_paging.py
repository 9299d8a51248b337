"""Pages of any size, few of them, and steps planned ahead: no request's tokens change."""

from __future__ import annotations

import pytest

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.replica import Replica
from neoxrun.planning.memory import kv_cache_bytes
from support.checkpoints import tiny
from support.ranks import run_engine
from support.tiny_models import random_replica

ROWS, LENGTH = 64, 48
BYTES = kv_cache_bytes(tiny(), layers=2, tensor=1, tokens=1, precision="fp32")
BEGINNING = [(5 * at) % ROWS for at in range(17)]
PROMPTS = [
    *([(7 * number + at) % ROWS for at in range(1 + 3 * number)] for number in range(5)),
    BEGINNING,
    [*BEGINNING, 1, 2, 3],
    BEGINNING[:9],
    BEGINNING,
]
PARAMS = [
    SamplingParams(maximum_tokens=3 + 2 * number, temperature=2.0 * (number % 2), seed=number, repetition_penalty=1.2)
    for number in range(len(PROMPTS))
]


@pytest.fixture(scope="module")
def alone() -> list[list[int]]:
    """Each request by itself, in one page."""
    return [
        run_engine(random_replica(ROWS, LENGTH), [prompt], [params], slots=1)[0]
        for prompt, params in zip(PROMPTS, PARAMS, strict=True)
    ]


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("page_size", [None, 16, 5, 1])
@pytest.mark.parametrize("sequences", [1.1, 2.5, 100])
def test_no_request_notices(alone: list[list[int]], ahead: int, page_size: int | None, sequences: float) -> None:
    """``sequences``: of the longest length, so many have room; with fewer, some are put back and computed again."""
    cache_bytes = int(sequences * LENGTH * BYTES)
    replica = random_replica(ROWS, LENGTH, cache_bytes=cache_bytes, page_size=page_size, ahead=ahead)
    assert run_engine(replica, PROMPTS, PARAMS, slots=6) == alone
    assert run_engine(replica, PROMPTS, PARAMS, slots=6) == alone, "with what the first time left in the cache"


def computed_by(replica: Replica, prompts: list[list[int]]) -> int:
    """Tokens of prompts that go through the network."""
    counts = []
    execute = replica.runner.execute
    replica.runner.execute = lambda step: (
        counts.extend(span.count for span in getattr(step, "spans", ())) or execute(step)
    )  # type: ignore[method-assign]
    run_engine(replica, prompts, [SamplingParams(maximum_tokens=1)] * len(prompts), slots=len(prompts))
    return sum(counts)


def test_what_prompts_share_is_copied_where_a_page_is_a_sequence() -> None:
    replica = random_replica(ROWS, LENGTH)
    replica.start_engine(slots=5, length=LENGTH, ends=()).close()
    assert computed_by(replica, [BEGINNING] * 5) == 17 + 4 * 1
    assert computed_by(replica, [[*BEGINNING, 9, 8]]) == 3


def test_what_prompts_share_is_computed_once() -> None:
    replica = random_replica(ROWS, LENGTH, page_size=4)
    replica.start_engine(slots=5, length=LENGTH, ends=()).close()  # the cache is large enough from now on
    assert computed_by(replica, [BEGINNING] * 5) == 17 + 4 * 1, "16 of the 17 positions are in full pages"
    assert computed_by(replica, [[*BEGINNING, 9, 8]]) == 3, "and stay for the next engine"
    replica.free_cache()
    assert computed_by(replica, [BEGINNING]) == 17
