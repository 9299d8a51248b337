"""Which sequences run next. Pure bookkeeping: no tensors.

Running sequences lie in cache slots 0 .. n-1 without gaps, so that a step works on one view of the cache. When one
ends, the last takes its place; new ones join at the end.
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
class Sequence:
    """A request on its way.

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
    """Queues and slots of one model copy.

    Args:
        slots: most sequences at a time.
        length: most tokens of a sequence.
        eos: the token that ends a document, or None.
    """

    def __init__(self, slots: int, length: int, eos: int | None) -> None:
        self._slots, self._length, self._eos = slots, length, eos
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; its prompt is shorter than a slot."""
        assert 0 < len(sequence.prompt) < self._length, "the prompt does not fit a slot"
        self._waiting.append(sequence)

    @property
    def free(self) -> int:
        """Slots that neither a running nor a waiting sequence will take."""
        return self._slots - len(self._running) - len(self._waiting)

    def next(self) -> tuple[Prefill | Decode | None, list[Sequence]]:
        """The next step and the sequences it gives a token to; None when nothing is left."""
        first_slot = len(self._running)
        entering: list[Sequence] = []
        width = 0
        while self._waiting and first_slot + len(entering) < self._slots:
            width = max(width, len(self._waiting[0].prompt))
            if entering and width * (len(entering) + 1) > PREFILL_TOKENS:
                break
            entering.append(self._waiting.popleft())
        if entering:
            self._running.extend(entering)
            return Prefill(first_slot, [s.prompt for s in entering], [s.params for s in entering]), entering
        if not self._running:
            return None, []
        tokens = [s.output[-1] for s in self._running]
        positions = [s.length - 1 for s in self._running]
        return Decode(tokens, positions), list(self._running)

    def finish_reason(self, sequence: Sequence) -> FinishReason | None:
        """Why the sequence ends with its newest token, or None where it goes on."""
        if sequence.output[-1] == self._eos and not sequence.params.ignore_eos:
            return "stop"
        if len(sequence.output) >= sequence.params.maximum_tokens:
            return "length"
        if sequence.length >= self._length:
            return "context"
        return None

    def remove(self, request_id: int) -> Move | None:
        """Take a sequence out; the answer is the cache move that closes the gap, if one is needed."""
        for sequence in self._waiting:
            if sequence.request_id == request_id:
                self._waiting.remove(sequence)
                return None
        slot = next(i for i, s in enumerate(self._running) if s.request_id == request_id)
        last = self._running.pop()
        if slot == len(self._running):
            return None
        self._running[slot] = last
        return Move(source=len(self._running), target=slot, length=last.length)
