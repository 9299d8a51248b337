"""The engine of one model copy: token ids in, token ids out."""

from __future__ import annotations

from dataclasses import dataclass

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.messages import Channel, Done, Message, Reserve, Score
from neoxrun.engine.runner import Runner
from neoxrun.engine.sampler import Sampled
from neoxrun.engine.scheduler import FinishReason, Scheduler
from neoxrun.engine.scheduler import Sequence as Running
from neoxrun.engine.scoring import Row, Scored


@dataclass(frozen=True)
class TokenEvent:
    """A request got a token; with ``finish_reason``, its last one."""

    request_id: int
    sampled: Sampled
    finish_reason: FinishReason | None


class Engine:
    """Drives a model copy from its leader; the copy's other ranks run ``follow``.

    Args:
        runner: this rank's part.
        slots: most sequences at a time; fewer where the cache does not fit.
        length: most tokens of a sequence, prompt and output.
        eos: the token that ends a document, or None.

    Raises:
        RankError: not even one sequence fits the memory.
    """

    def __init__(self, runner: Runner, *, slots: int, length: int, eos: int | None) -> None:
        self._runner = runner
        self._channel = Channel(runner.mesh)
        self._do(Reserve(slots, length))
        self.length = length
        self._scheduler = Scheduler(runner.slots, length, eos)

    @property
    def free(self) -> int:
        """How many more requests would start at once."""
        return self._scheduler.free

    def add(self, request_id: int, prompt: list[int], params: SamplingParams) -> None:
        """Queue a request. ``prompt`` has at least one token and leaves room for one more within ``length``."""
        self._scheduler.add(Running(request_id, prompt, params))

    def step(self) -> list[TokenEvent]:
        """One prefill or decode pass; an empty list when no request is left."""
        message, sequences = self._scheduler.next()
        if message is None:
            return []
        events = []
        for sequence, sampled in zip(sequences, self._do(message), strict=True):
            sequence.output.append(sampled.token)
            reason = self._scheduler.finish_reason(sequence)
            events.append(TokenEvent(sequence.request_id, sampled, reason))
        for event in events:
            if event.finish_reason is not None:
                self.drop(event.request_id)
        return events

    def drop(self, request_id: int) -> None:
        """Take out a request that has not ended by itself."""
        move = self._scheduler.remove(request_id)
        if move is not None:
            self._do(move)

    def close(self) -> None:
        """Let the other ranks return from ``follow``."""
        self._channel.send(Done())

    def _do(self, message: Message) -> list[Sampled]:
        self._channel.send(message)
        return self._runner.execute(message)


class Scorer:
    """Scores continuations, from the leader of a model copy; the copy's other ranks run ``follow``.

    Args:
        runner: this rank's part.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._channel = Channel(runner.mesh)

    def score(self, rows: list[Row]) -> list[Scored]:
        """The answers to all that the rows ask, in their order, in one pass; see ``scoring.passes``."""
        self._channel.send(Score(rows))
        return self._runner.score(rows)

    def close(self) -> None:
        """Let the other ranks return from ``follow``."""
        self._channel.send(Done())


def follow(runner: Runner) -> None:
    """Carry out the leader's messages until it closes its engine."""
    channel = Channel(runner.mesh)
    while not isinstance(message := channel.receive(), Done):
        runner.execute(message)
