"""Requests and those who wait for them, without a model."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from neoxrun.api.requests import Pieces, Requests
from neoxrun.errors import DataError, NeoxrunError, RankError
from neoxrun.serving.messages import Failed, Finished, Piece

DEAD = RankError("rank 1 has died", code="rank_died")


def finished(number: int, text: str = "done") -> Finished:
    return Finished(number, text, (), "stop", 0.1)


def test_pieces_come_in_order_whether_they_are_waited_for_or_not() -> None:
    pieces = Pieces()
    pieces.put("a")
    waiting = [pieces.take(), pieces.take()]
    assert waiting[0].result() == "a"
    assert not waiting[1].done()
    pieces.put("b")
    assert waiting[1].result() == "b"
    pieces.put(None)
    assert [pieces.take().result() for _ in range(2)] == [None, None]


def test_a_piece_that_nobody_takes_any_more_is_kept() -> None:
    """asyncio cancels what it waits for."""
    pieces = Pieces()
    assert pieces.take().cancel()
    pieces.put("a")
    assert pieces.take().result() == "a"


def test_events_find_their_requests() -> None:
    requests = Requests()
    pieces = Pieces()
    first, second = requests.add(lambda event: event.text), requests.add(lambda event: event.text, pieces)
    assert requests.numbers([second.future, Future()]) == [second.number]
    requests.receive([finished(99), Piece(second.number, "x"), finished(first.number, "one"), Piece(first.number, "y")])
    assert first.future.result() == "one"
    assert requests.numbers([first.future, second.future]) == [second.number]
    requests.receive([Failed(second.number, DEAD)])
    assert (pieces.take().result(), pieces.take().result()) == ("x", None)
    with pytest.raises(RankError, match="has died"):
        second.future.result()


def test_requests_that_fail_together_have_errors_of_their_own() -> None:
    """Each thread that raises one adds its own traceback."""
    requests = Requests()
    futures = [requests.add(lambda event: event.text).future for _ in range(2)]
    requests.receive([Failed(number, DEAD) for number in requests.numbers(futures)])
    errors = [future.exception() for future in futures]
    assert [str(error) for error in errors] == ["rank 1 has died"] * 2
    assert len({id(error) for error in [*errors, DEAD]}) == 3


def test_a_request_that_is_dropped_gets_nothing() -> None:
    requests = Requests()
    dropped, kept = (requests.add(lambda event: event.text) for _ in range(2))
    requests.drop([dropped.future])
    assert requests.numbers([dropped.future, kept.future]) == [kept.number]
    requests.receive([finished(dropped.number), finished(kept.number)])
    assert (dropped.future.done(), kept.future.result()) == (False, "done")


def test_a_cancelled_future_takes_no_result() -> None:
    requests = Requests()
    pending = requests.add(lambda event: event.text)
    assert pending.future.cancel()
    requests.receive([finished(pending.number)])
    failing = requests.add(lambda event: event.text)
    assert failing.future.cancel()
    requests.receive([Failed(failing.number, DEAD)])
    assert pending.future.cancelled()
    assert failing.future.cancelled()


def test_a_result_that_cannot_be_made_is_an_error() -> None:
    requests = Requests()
    pending = requests.add(lambda event: 1 / 0)
    requests.receive([finished(pending.number)])
    with pytest.raises(NeoxrunError, match="ZeroDivisionError"):
        pending.future.result()


def test_the_first_end_is_the_one_that_is_told() -> None:
    requests = Requests()
    waiting = [requests.add(lambda event: event.text, Pieces()) for _ in range(2)]
    requests.end(DEAD)
    requests.end(DataError("closed later", code="bad_data"))
    errors = [pending.future.exception() for pending in waiting]
    assert [str(error) for error in errors] == ["rank 1 has died"] * 2
    assert errors[0] is not errors[1], "each thread adds its own traceback"
    with pytest.raises(RankError, match="has died"):
        requests.add(lambda event: event.text)
    assert all(pending.pieces is not None and pending.pieces.take().result() is None for pending in waiting)


def test_pieces_are_awaited_in_a_loop() -> None:
    pieces = Pieces()

    async def both() -> list[str | None]:
        asyncio.get_running_loop().call_later(0.01, pieces.put, "late")
        return [await asyncio.wrap_future(pieces.take())]

    assert asyncio.run(both()) == ["late"]
