"""Which requests run next. Pure bookkeeping: no tensors.

Running requests have cache slots 0 .. n-1 without gaps, so that a step works on one view of the cache. When one ends,
the last moves into its slot; new ones join at the end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from neoxrun.config.limits import PREFILL_TOKENS
from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.messages import Decode, Move, Prefill

FinishReason = Literal["length", "stop", "context", "aborted"]


@dataclass
class Request:
    """A sequence that waits or runs.

    Attributes:
        request_id: the caller's name for it.
        prompt: its token ids, at least one.
        params: how to sample.
        output: tokens sampled so far.
    """

    request_id: int
    prompt: list[int]
    params: SamplingParams
    output: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens so far, prompt and output."""
        return len(self.prompt) + len(self.output)


class Scheduler:
    """Queue and slots of one engine.

    Args:
        slots: most sequences at a time.
        length: most tokens of a sequence.
        eos: the token that ends a document, or None.
    """

    def __init__(self, slots: int, length: int, eos: int | None) -> None:
        self._slots, self._length, self._eos = slots, length, eos
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []

    def add(self, request: Request) -> None:
        """Queue a request; its prompt is shorter than a slot."""
        assert 0 < len(request.prompt) < self._length, "the prompt does not fit a slot"
        self._waiting.append(request)

    @property
    def free_slots(self) -> int:
        """Slots that neither a running nor a waiting request will take; negative where some must wait."""
        return self._slots - len(self._running) - len(self._waiting)

    def next(self) -> tuple[Prefill | Decode | None, list[Request]]:
        """The next pass and the requests that it gives a token to; None when nothing is left."""
        first_slot = len(self._running)
        entering: list[Request] = []
        width = 0
        while self._waiting and first_slot + len(entering) < self._slots:
            width = max(width, len(self._waiting[0].prompt))
            if entering and width * (len(entering) + 1) > PREFILL_TOKENS:
                break
            entering.append(self._waiting.popleft())
        if entering:
            self._running.extend(entering)
            return Prefill(first_slot, [r.prompt for r in entering], [r.params for r in entering]), entering
        if not self._running:
            return None, []
        tokens = [r.output[-1] for r in self._running]
        positions = [r.length - 1 for r in self._running]
        return Decode(tokens, positions), list(self._running)

    def finish_reason(self, request: Request) -> FinishReason | None:
        """Why the request ends with its newest token, or None where it continues."""
        if request.output[-1] == self._eos and not request.params.ignore_eos:
            return "stop"
        if len(request.output) >= request.params.maximum_tokens:
            return "length"
        if request.length >= self._length:
            return "context"
        return None

    def clear(self) -> None:
        """Drop every request."""
        self._waiting.clear()
        self._running.clear()

    def remove(self, request_id: int) -> Move | None:
        """Take a request out, if it waits or runs.

        Returns:
            The cache move that closes the gap, if one is needed.
        """
        for request in self._waiting:
            if request.request_id == request_id:
                self._waiting.remove(request)
                return None
        slot = next((i for i, r in enumerate(self._running) if r.request_id == request_id), None)
        if slot is None:
            return None
        last = self._running.pop()
        if slot == len(self._running):
            return None
        self._running[slot] = last
        return Move(source=len(self._running), target=slot, length=last.length)
