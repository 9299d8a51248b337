"""What borrows a replica: an engine and scores, also in the middle of each other. (On several ranks: test_splits.)"""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine import runner
from neoxrun.engine.messages import ReleaseFollowers, Reserve, Score
from neoxrun.engine.scoring import Scored
from neoxrun.errors import RankError
from support.ranks import Scoring, run_engine
from support.tiny_models import random_replica, successor

ROWS, LENGTH = 64, 16
PROMPTS = [[(11 * number + step) % ROWS for step in range(3 + 2 * number)] for number in range(4)]
PARAMS = [
    SamplingParams(maximum_tokens=4),
    SamplingParams(maximum_tokens=6, temperature=3.0),
    SamplingParams(maximum_tokens=3, repetition_penalty=1.5),
    SamplingParams(maximum_tokens=5),
]
SCORING = Scoring(PROMPTS, branching=True)
REPLICA = random_replica(ROWS, LENGTH)


@pytest.fixture(scope="module")
def tokens() -> list[list[int]]:
    return run_engine(REPLICA, PROMPTS, PARAMS, slots=3)


@pytest.fixture(scope="module")
def scores() -> list[list[Scored]]:
    return SCORING.by_prompt(REPLICA.score(SCORING.rows))


@settings(max_examples=20)
@given(times=st.lists(st.integers(0, 2), min_size=12, max_size=12), slots=st.integers(1, 4))
def test_scores_between_the_steps_of_an_engine(
    tokens: list[list[int]], scores: list[list[Scored]], times: list[int], slots: int
) -> None:
    """``times``: how often, after each step."""
    waiting = iter(times)
    found = []

    def score() -> None:
        for _ in range(next(waiting, 0)):
            found.append(SCORING.by_prompt(REPLICA.score(SCORING.rows)))
            assert REPLICA.holds_cache

    assert run_engine(REPLICA, PROMPTS, PARAMS, slots=slots, after_step=score) == tokens
    assert all(one == scores for one in found)


def test_the_cache_stays_until_it_is_given_back() -> None:
    replica = random_replica(ROWS, LENGTH)
    assert not replica.holds_cache
    engine = replica.start_engine(slots=2, length=LENGTH, ends=())
    assert replica.holds_cache
    engine.close()
    cache = replica.runner.cache
    replica.start_engine(slots=1, length=8, ends=()).close()
    assert replica.runner.cache is cache, "a smaller engine needs no other"
    replica.start_engine(slots=3, length=8, ends=()).close()
    assert replica.runner.rows == 3
    replica.free_cache()
    assert not replica.holds_cache


def test_a_cache_is_gone_before_a_larger_one_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = random_replica(ROWS, LENGTH)
    replica.start_engine(slots=1, length=8, ends=()).close()
    before = weakref.ref(replica.runner.cache)
    allocate = runner.KVCache

    def allocate_alone(*sizes: Any) -> runner.KVCache:
        assert before() is None, "both take memory"
        return allocate(*sizes)

    monkeypatch.setattr(runner, "KVCache", allocate_alone)
    replica.start_engine(slots=2, length=8, ends=()).close()
    assert replica.runner.rows == 2


def test_followers_carry_out_instructions_until_they_are_released() -> None:
    replica = successor(lambda token: token, ROWS, LENGTH)
    messages = [Reserve(2, 8), Reserve(1, 10**9), Reserve(2, 8), Score(SCORING.rows[:1])]  # one of them is refused
    messages += [ReleaseFollowers(), Reserve(1, 4)]

    class Given:
        """A channel on which all has been said."""

        def receive(self) -> object:
            return messages.pop(0)

    replica._channel = Given()
    replica.follow()
    assert replica.runner.rows == 2
    assert messages == [Reserve(1, 4)], "what comes later is for the next call"


def test_an_instruction_that_fails_in_the_middle_leaves_the_ranks_out_of_step(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = random_replica(ROWS, LENGTH)
    with pytest.raises(RankError):
        replica.start_engine(slots=1, length=10**9, ends=())
    assert replica.in_step, "all ranks have refused it"
    monkeypatch.setattr(replica.stage, "scores", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        replica.score(SCORING.rows)
    assert not replica.in_step
