"""One answer, piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType

from neoxrun.api.completion import Completion, interruption
from neoxrun.api.requests import Pieces


class AnswerStream:
    """The text of one answer as it comes: an iterator of its pieces, for ``for`` and for ``async for``.

    The answer ends when the stream is closed, left by ``with``, or no longer used.

    Args:
        pieces: where they come from.
        future: the whole answer.
        cancel: ends the answer; its text so far comes then.

    Raises:
        NeoxrunError: by iterating, where the answer has failed.
        GenerationInterrupted: by iterating with ``for``, after Ctrl-C; ``partial`` has the answer so far.
    """

    def __init__(self, pieces: Pieces, future: Future[Completion], cancel: Callable[[], None]) -> None:
        self._pieces, self._future, self._cancel = pieces, future, cancel
        self._next: Future[str | None] | None = None  # what a call that was interrupted has waited for

    @property
    def completion(self) -> Completion:
        """The whole answer; waits for its end."""
        return self._future.result()

    def close(self) -> None:
        """End the answer, if it has not ended; ``completion`` has the text so far."""
        if not self._future.done():
            self._cancel()

    def __iter__(self) -> AnswerStream:
        return self

    def __next__(self) -> str:
        try:
            piece = self._take().result()
        except KeyboardInterrupt:
            self.close()
            raise interruption([self._future]) from None
        self._next = None
        if piece is None:
            self._future.result()  # raises what has ended it
            raise StopIteration
        return piece

    def _take(self) -> Future[str | None]:
        """The next piece, which is not lost where waiting for it is interrupted."""
        if self._next is None or self._next.cancelled():  # by asyncio
            self._next = self._pieces.take()
        return self._next

    def __aiter__(self) -> AnswerStream:
        return self

    async def __anext__(self) -> str:
        piece = await asyncio.wrap_future(self._take())
        self._next = None
        if piece is None:
            await asyncio.wrap_future(self._future)
            raise StopAsyncIteration
        return piece

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
