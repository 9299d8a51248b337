"""An engine that has less memory than it was asked for, and one whose requests are cancelled at any moment."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neoxrun.config.precisions import nonfinite_hint
from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.engine import Engine
from neoxrun.engine.pages import Pages
from neoxrun.engine.runner import Launched
from neoxrun.engine.sampler import Sampled
from neoxrun.engine.scheduler import Scheduler
from neoxrun.errors import RankError
from support.ranks import run_engine
from support.tiny_models import random_replica, successor

BYTES_A_TOKEN = 2 * 64 * 4  # keys and values, hidden 64, fp32, one layer


@pytest.mark.parametrize(("fits", "slots"), [(1, 1), (2, 2), (3.9, 3), (100, 4)])
def test_the_engine_takes_as_many_at_a_time_as_fit(fits: float, slots: int) -> None:
    length = 12
    replica = successor(lambda t: t + 1 & 63, 64, length, cache_bytes=int(fits * length * BYTES_A_TOKEN))
    engine = replica.start_engine(slots=4, length=length, ends=())
    assert engine.free_slots == slots
    params = [SamplingParams(maximum_tokens=count) for count in (3, 1, 5, 2, 4)]
    tokens = run_engine(replica, [[10 * n] * (n + 1) for n in range(5)], params, slots=4)
    assert tokens == [[10 * n + i + 1 for i in range(own.maximum_tokens)] for n, own in enumerate(params)]


def test_no_room_for_one_sequence_is_an_error() -> None:
    replica = successor(lambda t: t, 64, 12, cache_bytes=12 * BYTES_A_TOKEN - 1)
    with pytest.raises(RankError, match="one sequence of 12 tokens") as caught:
        replica.start_engine(slots=4, length=12, ends=())
    assert "--maximum-tokens" in (caught.value.hint or "")
    assert not replica.holds_cache
    assert replica.start_engine(slots=4, length=11, ends=()).free_slots == 1, "a shorter one fits"


ROWS, LENGTH = 64, 16
REPLICA = random_replica(ROWS, LENGTH)


def request(number: int) -> tuple[list[int], SamplingParams]:
    """Requests of all lengths; every third one is sampled, with penalties for what was written."""
    prompt = [(7 * number + step) % ROWS for step in range(1 + number % 5)]
    count = 1 + 3 * number % 8
    if number % 3:
        return prompt, SamplingParams(maximum_tokens=count, frequency_penalty=0.5)
    return prompt, SamplingParams(maximum_tokens=count, temperature=3.0, seed=number, repetition_penalty=1.3)


def tokens_of(engine: Engine) -> dict[int, list[int]]:
    """All that is left to do."""
    tokens: dict[int, list[int]] = {}
    while events := engine.step():
        for event in events:
            tokens.setdefault(event.request_id, []).append(event.sampled.token)
    return tokens


@pytest.fixture(scope="module")
def alone() -> list[list[int]]:
    """The tokens of every request by itself."""
    engine = REPLICA.start_engine(slots=1, length=LENGTH, ends=())
    found = []
    for number in range(20):
        engine.add(number, *request(number))
        found.append(tokens_of(engine)[number])
    return found


ACTIONS = st.one_of(
    st.just(("add", 0)),
    st.just(("step", 0)),
    st.tuples(st.sampled_from(["cancel", "cancel twice"]), st.integers(0, 20)),
)


@settings(max_examples=80)
@given(actions=st.lists(ACTIONS, max_size=40), slots=st.integers(1, 4))
def test_cancelling_changes_nothing_for_the_others(
    alone: list[list[int]], actions: Sequence[tuple[str, int]], slots: int
) -> None:
    """Whether a request waits, runs, has ended, was cancelled before or never was."""
    engine = REPLICA.start_engine(slots=slots, length=LENGTH, ends=())
    tokens: dict[int, list[int]] = {}
    ended: set[int] = set()
    cancelled: set[int] = set()

    def step() -> bool:
        events = engine.step()
        for event in events:
            assert event.request_id not in cancelled | ended, "an event of a request that is gone"
            tokens[event.request_id].append(event.sampled.token)
            if event.finish_reason is not None:
                ended.add(event.request_id)
        return bool(events)

    for action, number in actions:
        if action == "add" and len(tokens) < len(alone):
            engine.add(len(tokens), *request(len(tokens)))
            tokens[len(tokens)] = []
        elif action == "step":
            step()
        elif action.startswith("cancel"):
            for _ in range(1 + (action == "cancel twice")):
                engine.cancel(number)
            if number in tokens and number not in ended:
                cancelled.add(number)
    while step():
        pass
    for number, found in tokens.items():
        if number in cancelled:
            assert found == alone[number][: len(found)]
            assert len(found) < len(alone[number])
        else:
            assert found == alone[number]
    assert ended | cancelled == tokens.keys(), "nothing is left"
    assert engine.free_slots == slots
    engine.close()


def test_a_closed_engine_has_no_requests() -> None:
    engine = REPLICA.start_engine(slots=2, length=LENGTH, ends=())
    for number in range(3):
        engine.add(number, *request(number + 2))
    engine.step()
    engine.close()
    engine.cancel(0)
    assert engine.step() == []
    assert engine.free_slots == 2


def test_what_is_not_a_number_ends_the_run() -> None:
    replica = random_replica(ROWS, LENGTH)
    replica.stage.final_linear.weight.fill_(torch.nan)
    engine = replica.start_engine(slots=1, length=LENGTH, ends=())
    engine.add(0, [1], SamplingParams(maximum_tokens=2))
    with pytest.raises(RankError, match="not a number") as caught:
        engine.step()
    assert caught.value.code == "nonfinite_output"
    hint = caught.value.hint or ""
    assert hint == nonfinite_hint("fp32")
    assert "--dtype" not in hint  # there is no wider one
    assert "`neoxrun download --verify FOLDER`" in hint


def test_a_token_too_many_may_be_anything() -> None:
    """It was computed before its request was known to have ended."""
    answers = [[Sampled(7)], [Sampled(0, finite=False)]]
    engine = Engine(
        Scheduler(1, 16, 16, Pages(4, 4), ends=(7,)),
        lambda step: Launched(None, lambda: answers.pop(0)),
        ahead=1,
    )
    engine.add(0, [1, 2], SamplingParams(maximum_tokens=5))
    (event,) = engine.step()
    assert event.finish_reason == "stop"
    assert engine.step() == []
    assert answers == [], "the step under way was read, too"
