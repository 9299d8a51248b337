"""What has been asked of a model and not been answered yet, and the streams and futures that wait for it."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass
from typing import Any

from neoxrun.errors import NeoxrunError, classify
from neoxrun.serving.messages import Event, Failed, Piece
from neoxrun.serving.words import error_in_python


class Pieces:
    """The pieces of a text between the thread that brings them and the one that takes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: deque[str | None] = deque()  # None: the end
        self._waiting: Future[str | None] | None = None

    def put(self, piece: str | None) -> None:
        """Bring the next piece; None after the last one."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
            # One that was cancelled, by asyncio, takes nothing.
            if waiting is None or not waiting.set_running_or_notify_cancel():
                self._pieces.append(piece)
                return
        waiting.set_result(piece)

    def take(self) -> Future[str | None]:
        """The next piece, as soon as it has come; None after the last one, however often."""
        taken: Future[str | None] = Future()
        with self._lock:
            if not self._pieces:
                self._waiting = taken
                return taken
            piece = self._pieces[0] if self._pieces[0] is None else self._pieces.popleft()
        taken.set_result(piece)
        return taken


@dataclass(frozen=True)
class Pending:
    """A request.

    Attributes:
        number: of its work.
        future: what waits for the result.
        result: makes the result of the last event.
        pieces: where the pieces of its text go, if they are wanted.
    """

    number: int
    future: Future[Any]
    result: Callable[[Any], Any]
    pieces: Pieces | None = None


class Requests:
    """The requests of all threads that have not ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: dict[int, Pending] = {}
        self._numbers = itertools.count(1)
        self._end: NeoxrunError | None = None

    def add(self, result: Callable[[Any], Any], pieces: Pieces | None = None) -> Pending:
        """A new request, whose work is to be sent next.

        Raises:
            NeoxrunError: there is no model any more, and this is why.
        """
        with self._lock:
            if self._end is not None:
                raise copy(self._end)
            pending = Pending(next(self._numbers), Future(), result, pieces)
            self._pending[pending.number] = pending
        return pending

    def check(self) -> None:
        """Nothing, while there is a model.

        Raises:
            NeoxrunError: there is none any more, and this is why.
        """
        with self._lock:
            if self._end is not None:
                raise copy(self._end)

    def drop(self, futures: Iterable[Future[Any]]) -> None:
        """Forget the requests that these futures wait for, as far as they have not ended."""
        for number in self.numbers(futures):
            with self._lock:
                self._pending.pop(number, None)

    def numbers(self, futures: Iterable[Future[Any]]) -> list[int]:
        """The numbers of the requests that have not ended, of those that these futures wait for."""
        wanted = set(futures)
        with self._lock:
            return [number for number, pending in self._pending.items() if pending.future in wanted]

    def receive(self, events: Iterable[Event]) -> None:
        """Bring events to those who wait for them."""
        for event in events:
            with self._lock:
                pending = self._pending.get(event.number)
                if pending is None:
                    continue
                if not isinstance(event, Piece):
                    del self._pending[event.number]
            if isinstance(event, Piece):
                if pending.pieces is not None:
                    pending.pieces.put(event.text)
            elif isinstance(event, Failed):
                _fail(pending, error_in_python(copy(event.error)))  # others may be given the same one
            else:
                _succeed(pending, event)

    def end(self, error: NeoxrunError) -> None:
        """Nothing more comes: all requests fail with ``error``, and so does every later one."""
        with self._lock:
            self._end = self._end or error_in_python(error)
            left = list(self._pending.values())
            self._pending.clear()
        for pending in left:
            _fail(pending, copy(error))  # each thread that raises it adds its own traceback


def _succeed(pending: Pending, event: Event) -> None:
    if pending.future.set_running_or_notify_cancel():
        try:
            pending.future.set_result(pending.result(event))
        except Exception as error:
            pending.future.set_exception(classify(error))
    if pending.pieces is not None:
        pending.pieces.put(None)


def _fail(pending: Pending, error: NeoxrunError) -> None:
    if pending.future.set_running_or_notify_cancel():
        pending.future.set_exception(error)
    if pending.pieces is not None:
        pending.pieces.put(None)
