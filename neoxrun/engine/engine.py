"""The engine: requests of token ids in, tokens out. It says what is to be computed; its replica computes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from neoxrun.config.precisions import nonfinite_hint
from neoxrun.config.sampling import SamplingParams
from neoxrun.config.settings import Precision
from neoxrun.engine.pulse import Pulse
from neoxrun.engine.runner import Launched
from neoxrun.engine.sampler import Sampled
from neoxrun.engine.scheduler import FinishReason, Planned, Request, Scheduler
from neoxrun.engine.steps import Step
from neoxrun.errors import RankError


@dataclass(frozen=True)
class TokenEvent:
    """A request got a token; with ``finish_reason``, its last one."""

    request_id: int
    sampled: Sampled
    finish_reason: FinishReason | None


class Engine:
    """Many requests at once.

    Args:
        scheduler: decides what each step computes.
        launch: carries out a step on every rank of the replica.
        ahead: steps that may be under way while the next one is planned, so that the device does not wait for the host.
        pulse: is inside during each step.
        computed_in: the number format, for the error.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        launch: Callable[[Step], Launched],
        ahead: int = 0,
        pulse: Pulse | None = None,
        computed_in: Precision = "fp32",
    ) -> None:
        self._scheduler, self._launch, self._ahead = scheduler, launch, ahead
        self._pulse, self._computed_in = pulse or Pulse(), computed_in
        self._under_way: deque[tuple[Planned, Launched]] = deque()

    @property
    def computed_in(self) -> Precision:
        """The format of the activations."""
        return self._computed_in

    @property
    def slots(self) -> int:
        """Most requests at a time."""
        return self._scheduler.rows

    @property
    def length(self) -> int:
        """Most tokens of a request, prompt and output."""
        return self._scheduler.length

    @property
    def free_slots(self) -> int:
        """How many more requests would start at once."""
        return self._scheduler.free

    def add(self, request_id: int, prompt: list[int], params: SamplingParams) -> None:
        """Queue a request.

        Args:
            request_id: what its events are called; of the requests under way none has the same.
            prompt: token ids, at least one; they leave room for one more within the engine's length.
            params: how to sample.
        """
        self._scheduler.add(Request(request_id, prompt, params))

    def step(self) -> list[TokenEvent]:
        """Compute until tokens are there, and give their events; none where no request is left.

        Raises:
            RankError: the network gave a request NaN, or nothing finite.
        """
        events = self.advance()
        if not all(event.sampled.finite for event in events):
            raise nonfinite_output(self._computed_in)
        return events

    def advance(self) -> list[TokenEvent]:
        """As ``step``, without an error: an event whose token is not ``finite`` means nothing."""
        while True:
            with self._pulse:
                planned = self._scheduler.plan()
                if planned is not None:
                    self._under_way.append((planned, self._launch(planned.step)))
                    if len(self._under_way) <= self._ahead:
                        continue
                if not self._under_way:
                    return []
                if events := self._read(*self._under_way.popleft()):
                    return events

    def cancel(self, request_id: int) -> None:
        """Take a request out, whether it waits or runs; nothing happens where it has ended or never was."""
        self._scheduler.cancel(request_id)

    def close(self) -> None:
        """Drop every request; the last call of an engine. What it cached stays, for the next one."""
        self._scheduler.clear()
        while self._under_way:
            self._under_way.popleft()[1].read()

    def hand_over(self) -> tuple[list[TokenEvent], list[Request]]:
        """Give every request up, for an engine that is opened next; the last call of this one.

        Returns:
            The events of the steps that were under way, as of ``advance``, and the requests that have not ended.
        """
        events: list[TokenEvent] = []
        while self._under_way:
            events += self._read(*self._under_way.popleft())
        return events, self._scheduler.give_up()

    def take_over(self, requests: Iterable[Request]) -> None:
        """Queue the requests of another engine, which go on where they are."""
        for request in requests:
            self._scheduler.add(request)

    def _read(self, planned: Planned, launched: Launched) -> list[TokenEvent]:
        """The events of a step: of its sampled tokens, those whose requests had not ended meanwhile."""
        sampled = launched.read()
        by_request = dict(zip((request.request_id for request in planned.sampled), sampled, strict=True))
        taken = self._scheduler.take(planned, [one.token for one in sampled])
        return [TokenEvent(request.request_id, by_request[request.request_id], reason) for request, _, reason in taken]


def nonfinite_output(computed_in: Precision) -> RankError:
    """The error for a request to which the network, computed in this format, gave NaN, or nothing finite."""
    return RankError("the model's output is not a number", code="nonfinite_output", hint=nonfinite_hint(computed_in))
