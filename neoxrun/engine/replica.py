"""One replica of the model, and the only owner of its ranks: the engine and ``score`` borrow them here."""

from __future__ import annotations

from neoxrun.engine.engine import Engine
from neoxrun.engine.messages import Channel, Instruction, ReleaseFollowers, Reserve, Score
from neoxrun.engine.runner import Runner
from neoxrun.engine.sampler import Sampled
from neoxrun.engine.scoring import Row, Scored
from neoxrun.model.gpt_neox import Stage


class Replica:
    """A replica, as each of its ranks has it: its leader drives, the others follow.

    Args:
        runner: this rank's part.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._channel = Channel(runner.mesh)

    @property
    def runner(self) -> Runner:
        """This rank's part, for what looks below tokens."""
        return self._runner

    @property
    def stage(self) -> Stage:
        """This rank's share of the network."""
        return self._runner.stage

    @property
    def holds_cache(self) -> bool:
        """Whether an engine is open, whose cache takes memory."""
        return self._runner.holds_cache

    def start_engine(self, *, slots: int, length: int, eos: int | None) -> Engine:
        """An engine, on the leader. A replica has one at a time: close it before the next.

        Args:
            slots: most sequences at a time; fewer where the cache does not fit.
            length: most tokens of a sequence, prompt and output.
            eos: the token that ends a document, or None.

        Raises:
            RankError: not even one sequence fits the memory.
        """
        self._execute(Reserve(slots, length))
        return Engine(self._execute, slots=self._runner.slots, length=length, eos=eos)

    def score(self, rows: list[Row]) -> list[Scored]:
        """The answers to all that the rows ask, in their order, in one pass; see ``scoring.passes``.

        On the leader. An engine may be in the middle of its requests, which stay as they are.
        """
        self._channel.send(Score(rows))
        return self._runner.score(rows)

    def follow(self) -> None:
        """Carry out the leader's instructions until it releases its followers."""
        while not isinstance(message := self._channel.receive(), ReleaseFollowers):
            self._runner.execute(message)

    def release_followers(self) -> None:
        """Let the other ranks return from ``follow``; on the leader."""
        self._channel.send(ReleaseFollowers())

    def _execute(self, instruction: Instruction) -> list[Sampled]:
        self._channel.send(instruction)
        return self._runner.execute(instruction)
