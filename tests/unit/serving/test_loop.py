"""The loop that owns an engine: what it emits, how it grows, and what it refuses, with a small network."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.scoring import ScoreRequest
from neoxrun.engine.session import Session
from neoxrun.serving.loop import EngineLoop
from neoxrun.serving.messages import (
    Cancel,
    Close,
    Event,
    Failed,
    Finished,
    Message,
    Piece,
    ScoresFound,
    ScoreWork,
    TextWork,
)
from support.tiny_models import demo_tokenizer, random_replica

TOKENIZER = demo_tokenizer()
SIZE = TOKENIZER.vocab_size
TOKEN_BYTES = 256  # of the cache: 2 layers of 16 numbers, keys and values, in fp32


def session(*, cache_bytes: int = 2**30, length: int = 512) -> Session:
    replica = random_replica(SIZE, length, cache_bytes=cache_bytes)
    settings = load_settings(["demo"])
    mesh = replica.runner.mesh
    return Session(settings, mesh, replica, TOKENIZER, weights=None, max_context=length, most_scored=64)


def work(number: int, tokens: int, *, stream: bool = False) -> TextWork:
    return TextWork(number, [5 + number, 6], SamplingParams(maximum_tokens=tokens, ignore_eos=True), stream)


def answered(messages: Sequence[Message], **given: int) -> list[Event]:
    """The events of messages that are all there at once, but for the pieces."""
    events: list[Event] = []
    loop = EngineLoop(session(**given), events.extend)
    for message in messages:
        loop.inbox.put(message)
    loop.run_until_idle()
    assert not loop.busy
    return events


def tokens_of(events: Sequence[Event]) -> dict[int, list[int]]:
    return {
        event.number: [sampled.token for sampled in event.sampled] for event in events if isinstance(event, Finished)
    }


def test_pieces_come_where_they_are_wanted() -> None:
    events = answered([work(1, 20, stream=True), work(2, 3)])
    text = next(event.text for event in events if isinstance(event, Finished) and event.number == 1)
    pieces = [event for event in events if isinstance(event, Piece)]
    assert "".join(piece.text for piece in pieces) == text
    assert {piece.number for piece in pieces} == {1}
    assert {number: len(tokens) for number, tokens in tokens_of(events).items()} == {1: 20, 2: 3}


def test_scores_are_computed_between_the_steps_of_texts() -> None:
    """Also where a cache appears meanwhile, which leaves them another budget."""
    requests = [ScoreRequest((first, 6), tuple(range(7, 17))) for first in range(40)]
    events = answered([ScoreWork(1, requests, 0), work(2, 3), ScoreWork(3, requests[:2])])
    found = {event.number: event.scores for event in events if isinstance(event, ScoresFound)}
    tokens = [one.tokens for one in found[1]]
    assert [len(one.logprobs) for one in tokens if one is not None] == [10] * 40
    (alone,) = answered([ScoreWork(1, requests[:2])])
    assert isinstance(alone, ScoresFound)
    for scores in (found[1][:2], found[3]):
        assert [one.logprob for one in scores] == pytest.approx([one.logprob for one in alone.scores], abs=1e-4)
    assert [event.number for event in events] == [2, 1, 3], "a text does not wait for all scores"


def test_a_request_for_which_there_is_no_memory_fails_alone() -> None:
    right = tokens_of(answered([work(1, 90)]))[1]
    events: list[Event] = []
    loop = EngineLoop(session(cache_bytes=200 * TOKEN_BYTES), events.extend)
    loop.inbox.put(work(1, 90))
    loop._take_in(wait=False)
    for _ in range(10):
        loop._turn()
    assert not events
    for message in (work(2, 300), work(3, 4)):
        loop.inbox.put(message)
    loop.run_until_idle()
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.number, failed.error.code) == (2, "out_of_memory")
    found = tokens_of(events)
    assert found[1] == right
    assert len(found[3]) == 4


def test_requests_for_which_there_is_no_memory_fail_alone_on_a_fresh_model_too() -> None:
    """Also next to one that fits only without the room that an engine has to spare."""
    given = [work(2, 300), work(3, 4), ScoreWork(4, [ScoreRequest((5,), (6,))]), work(5, 170), work(6, 250)]
    events = answered(given, cache_bytes=200 * TOKEN_BYTES)
    failed = {event.number: event.error.message for event in events if isinstance(event, Failed)}
    assert {number: "out of memory" in message for number, message in failed.items()} == {2: True, 6: True}
    assert [event.number for event in events if isinstance(event, ScoresFound)] == [4]
    right = tokens_of(answered([work(3, 4), work(5, 170)]))
    assert {number: len(tokens) for number, tokens in right.items()} == {3: 4, 5: 170}
    assert tokens_of(events) == right
    loop = EngineLoop(session(cache_bytes=200 * TOKEN_BYTES), events.extend)
    for round_ in (work(7, 300), work(8, 300)), (work(9, 4),):
        for message in round_:
            loop.inbox.put(message)
        loop.run_until_idle()
    assert [event.number for event in events[-3:]] == [7, 8, 9]
    assert isinstance(events[-1], Finished)


def test_work_that_was_cancelled_is_not_waited_for() -> None:
    loop = EngineLoop(session(), lambda events: None)
    loop.inbox.put(Cancel(1))
    thread = threading.Thread(target=loop.run_until_idle, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def test_requests_wait_for_the_rows_that_memory_allows() -> None:
    events = answered([work(number, 20) for number in range(1, 8)], cache_bytes=300 * TOKEN_BYTES)
    assert {number: len(tokens) for number, tokens in tokens_of(events).items()} == dict.fromkeys(range(1, 8), 20)


def test_cancelling_what_waits_and_what_runs_and_the_end() -> None:
    events: list[Event] = []
    came = threading.Event()

    def emit(new: list[Event]) -> None:
        events.extend(new)
        if any(isinstance(event, Piece) for event in new):
            came.set()

    loop = EngineLoop(session(), emit, batch_size=1)
    thread = threading.Thread(target=loop.run)
    thread.start()
    for message in (work(1, 500, stream=True), work(2, 500), work(3, 500), ScoreWork(4, [ScoreRequest((5,), (6,))])):
        loop.inbox.put(message)
    assert came.wait(30)
    for message in (Cancel(2), Cancel(1), Cancel(1), Cancel(99), Close()):
        loop.inbox.put(message)
    thread.join(30)
    assert not thread.is_alive()
    ended = [event for event in events if isinstance(event, Finished)]
    assert [(event.number, event.reason) for event in ended] == [(2, "aborted"), (1, "aborted"), (3, "aborted")]
    assert ended[0].text == ""
    assert 0 < len(ended[1].sampled) < 500
    assert "".join(event.text for event in events if isinstance(event, Piece) and event.number == 1) == ended[1].text
