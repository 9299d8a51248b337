"""The engine: requests of token ids in, tokens out. It says what is to be computed; its replica computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.messages import Free, Instruction
from neoxrun.engine.sampler import Sampled
from neoxrun.engine.scheduler import FinishReason, Request, Scheduler


@dataclass(frozen=True)
class TokenEvent:
    """A request got a token; with ``finish_reason``, its last one."""

    request_id: int
    sampled: Sampled
    finish_reason: FinishReason | None


class Engine:
    """Many requests at once, in the cache that ``Replica.start_engine`` has reserved for them.

    Args:
        execute: carries out an instruction on every rank of the replica; gives the sampled tokens.
        slots: most sequences at a time.
        length: most tokens of a sequence, prompt and output.
        eos: the token that ends a document, or None.
    """

    def __init__(
        self, execute: Callable[[Instruction], list[Sampled]], *, slots: int, length: int, eos: int | None
    ) -> None:
        self._execute = execute
        self._scheduler = Scheduler(slots, length, eos)

    @property
    def free_slots(self) -> int:
        """How many more requests would start at once."""
        return self._scheduler.free_slots

    def add(self, request_id: int, prompt: list[int], params: SamplingParams) -> None:
        """Queue a request.

        Args:
            request_id: what its events are called; of the requests under way none has the same.
            prompt: token ids, at least one; they leave room for one more within the engine's length.
            params: how to sample.
        """
        self._scheduler.add(Request(request_id, prompt, params))

    def step(self) -> list[TokenEvent]:
        """One prefill or decode pass; an empty list when no request is left."""
        instruction, requests = self._scheduler.next()
        if instruction is None:
            return []
        events = []
        for request, sampled in zip(requests, self._execute(instruction), strict=True):
            request.output.append(sampled.token)
            reason = self._scheduler.finish_reason(request)
            events.append(TokenEvent(request.request_id, sampled, reason))
        for event in events:
            if event.finish_reason is not None:
                self.cancel(event.request_id)
        return events

    def cancel(self, request_id: int) -> None:
        """Take a request out, whether it waits or runs; nothing happens where it has ended or never was."""
        move = self._scheduler.remove(request_id)
        if move is not None:
            self._execute(move)

    def close(self) -> None:
        """Drop every request and give the cache's memory back; the last call of an engine."""
        self._scheduler.clear()
        self._execute(Free())
