"""One replica of the model, and the only owner of its ranks: the engine and ``score`` borrow them here."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from neoxrun.config.limits import PREFILL_TOKENS
from neoxrun.engine.engine import Engine
from neoxrun.engine.messages import Channel, FreeCache, ReleaseFollowers, Reserve, Score
from neoxrun.engine.pages import Pages
from neoxrun.engine.pulse import Pulse
from neoxrun.engine.runner import Launched, Runner
from neoxrun.engine.scheduler import Scheduler
from neoxrun.engine.scoring import Row, Scored
from neoxrun.engine.steps import Step
from neoxrun.errors import RankError
from neoxrun.model.gpt_neox import Stage


class Replica:
    """A replica, as each of its ranks has it: its leader drives, the others follow.

    Args:
        runner: this rank's part.

    Attributes:
        pulse: what this rank is doing.
        in_step: whether the ranks are ready for the next instruction; not during one, nor after one has failed on this
            rank, when what the others have done of it is not known.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._channel = Channel(runner.mesh)
        self._pages: Pages | None = None
        self.pulse = Pulse()
        self.in_step = True

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
        """Whether the cache takes memory."""
        return self._runner.cache is not None

    def start_engine(self, *, slots: int, length: int, ends: Collection[int]) -> Engine:
        """An engine, on the leader. A replica has one at a time: close it before the next.

        What earlier engines have computed of the beginning of prompts is used again.

        Args:
            slots: most sequences at a time; fewer where the cache does not fit.
            length: most tokens of a sequence, prompt and output.
            ends: the tokens that end a text.

        Raises:
            RankError: not even one sequence fits the memory.
        """
        reserve = Reserve(slots, length)
        before = self._runner.caches  # not the cache, which would live on while the next is allocated
        with self.pulse, self._all_ranks():
            self._channel.send(reserve)
            self._runner.execute(reserve)
        if self._pages is None or self._runner.caches != before:
            self._pages = Pages(self._runner.pages, self._runner.page_size, self._runner.block)
        length = min(length, self._pages.count * self._pages.size)
        rows = min(slots, self._runner.rows)
        groups = self._runner.mesh.pp
        scheduler = Scheduler(rows, length, max(PREFILL_TOKENS, rows), self._pages, ends, groups=groups)
        computed_in = self.stage.precisions.compute
        return Engine(scheduler, self._launch, self._runner.ahead, self.pulse, computed_in)

    def free_cache(self) -> None:
        """Give the cache's memory back, for larger passes of scoring; on the leader, when no engine is open."""
        if self.holds_cache:
            with self._all_ranks():
                self._channel.send(FreeCache())
                self._runner.execute(FreeCache())
            self._pages = None

    def score(self, rows: list[Row], top: int | None = None) -> list[Scored]:
        """The answers to all that the rows ask, in their order, in one pass; see ``scoring.scoring_passes``.

        On the leader. An engine may be in the middle of its requests, which stay as they are.

        Args:
            rows: what to compute together.
            top: give each token's log-probability, and those of this many of the most likely tokens at its position;
                None: sums only, which is less to copy and to send.
        """
        with self.pulse, self._all_ranks():
            self._channel.send(Score(rows, top))
            return self._runner.score(rows, top)

    def follow(self) -> None:
        """Carry out the leader's instructions until it releases its followers.

        A refused ``Reserve`` is the leader's to report: all ranks agree on it, and go on.
        """
        while not isinstance(instruction := self._channel.receive(), ReleaseFollowers):
            with self.pulse, suppress(*([RankError] if isinstance(instruction, Reserve) else [])):
                self._runner.execute(instruction)

    def release_followers(self) -> None:
        """Let the other ranks return from ``follow``; on the leader."""
        self._channel.send(ReleaseFollowers())

    def _launch(self, step: Step) -> Launched:
        with self._all_ranks():
            self._channel.send(step)
            launched = self._runner.execute(step)
        assert launched is not None
        return launched

    @contextmanager
    def _all_ranks(self) -> Iterator[None]:
        """Around an instruction, on the leader."""
        self.in_step = False
        try:
            yield
        except RankError:  # the runner's only one is a refused ``Reserve``, on which all ranks agree
            self.in_step = True
            raise
        self.in_step = True
