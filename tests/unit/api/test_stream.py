"""Streams and Ctrl-C, without a model."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from neoxrun import GenerationInterrupted
from neoxrun.api.completion import Completion, completion_of
from neoxrun.api.requests import Pieces
from neoxrun.api.stream import AnswerStream
from neoxrun.config.sampling import SamplingParams
from neoxrun.errors import RankError
from neoxrun.generation.encoding import EncodedPrompt
from neoxrun.generation.prompts import Prompt
from neoxrun.serving.messages import Finished
from support.tiny_models import demo_tokenizer


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neoxrun.api.completion._LAST_SECONDS", 0.2)


def answer(text: str, reason: str) -> Completion:
    encoded = EncodedPrompt(Prompt(0, None, "x", SamplingParams()), [1])
    return completion_of(encoded, Finished(1, text, (), reason, 0.1), demo_tokenizer(), None)


def interrupt(stream: AnswerStream) -> GenerationInterrupted:
    """What the stream raises where Ctrl-C comes while it waits for a piece."""
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        next(stream)
    timer.join()
    assert isinstance(caught.value, GenerationInterrupted)
    return caught.value


def test_ctrl_c_gives_what_there_is() -> None:
    future: Future[Completion] = Future()
    end: Callable[[], None] = lambda: future.set_result(answer("so far", "aborted"))  # noqa: E731
    interrupted = interrupt(AnswerStream(Pieces(), future, end))
    assert [one.text for one in interrupted.partial] == ["so far"]
    assert interrupted.records == []


def test_ctrl_c_where_the_answer_comes_too_late_or_has_failed() -> None:
    late: Future[Completion] = Future()
    assert interrupt(AnswerStream(Pieces(), late, lambda: None)).partial == []
    failed: Future[Completion] = Future()
    stream = AnswerStream(Pieces(), failed, lambda: failed.set_exception(RankError("gone", code="rank_died")))
    assert interrupt(stream).partial == []


def test_no_piece_is_lost_after_ctrl_c() -> None:
    pieces, future = Pieces(), Future[Completion]()
    stream = AnswerStream(pieces, future, lambda: None)
    interrupt(stream)
    pieces.put("late")
    pieces.put(None)
    future.set_result(answer("late", "aborted"))
    assert list(stream) == ["late"]


def test_no_piece_is_lost_where_a_task_of_asyncio_is_cancelled() -> None:
    pieces, future = Pieces(), Future[Completion]()
    stream = AnswerStream(pieces, future, lambda: None)

    async def impatient() -> list[str]:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.05)
        pieces.put("late")
        pieces.put(None)
        future.set_result(answer("late", "stop"))
        return [piece async for piece in stream]

    assert asyncio.run(impatient()) == ["late"]
