"""Rows of a step and of a pass, and passes of a step: GPT-NeoX's sizes, solved for a number of replicas. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from neoxrun.errors import ConfigError
from neoxrun.terminal.words import counted

USUAL_ROWS: Final = 8
"""Rows of a step where nothing says how many."""

MOST_ROWS: Final = 1_000_000
"""Of a step, and of a pass. GPT-NeoX-20B was trained with 1538."""


class Batch(NamedTuple):
    """The rows of a step.

    Attributes:
        rows: of the step, over all replicas.
        micro: rows of a pass on one replica; None: any number that divides ``share``.
        share: rows of the step on one replica.
        note: what differs from the configuration; None: nothing.
    """

    rows: int
    micro: int | None
    share: int
    note: str | None = None


@dataclass(frozen=True)
class BatchRequest:
    """What is said of the three sizes; None: nothing.

    Attributes:
        rows: ``train_batch_size``.
        micro: ``train_micro_batch_size_per_gpu``.
        accumulation: ``gradient_accumulation_steps``.
        micro_fixed: the command line gives ``micro``, which is then not changed.
        where: file and line of the sizes.
    """

    rows: int | None = None
    micro: int | None = None
    accumulation: int | None = None
    micro_fixed: bool = False
    where: str | None = None

    def fits(self, replicas: int) -> bool:
        """Whether that many replicas can share a step equally."""
        return self.rows is None or self.rows % replicas == 0

    def solve(self, replicas: int) -> Batch:
        """The sizes for that many replicas.

        The rows of a step decide how a model is trained, so they stay. The other two only decide in how many passes
        they are computed: where the three do not go together, which GPT-NeoX refuses, these follow.

        Raises:
            ConfigError: the replicas cannot share a step equally, or its rows are not a whole number of passes.
        """
        if self.rows is None:
            batch = self._solve_without_rows(replicas)
            if batch.rows > MOST_ROWS:
                raise self._refusal(
                    f"{batch.rows} rows of a step are too many: the most are {MOST_ROWS}", "Give a lower --batch-size."
                )
            return batch
        share, odd = divmod(self.rows, replicas)
        if odd:
            raise self._refusal(
                f"train_batch_size {self.rows} cannot be shared equally by {replicas} replicas",
                f"Give --batch-size a multiple of {replicas}, or another number of --replicas.",
            )
        if self.micro is None:
            if self.accumulation is None:
                return Batch(self.rows, None, share)
            micro, odd = divmod(share, self.accumulation)
            if odd:
                raise self._refusal(
                    f"the {self._rows_of_each(share, replicas)} cannot be divided into "
                    f"{self.accumulation} equal passes (gradient_accumulation_steps)",
                    "Give --batch-size and --micro-batch-size, from which the number of passes follows.",
                )
            return Batch(self.rows, micro, share)
        if share % self.micro == 0:
            return Batch(self.rows, self.micro, share, self._note(replicas, share // self.micro))
        if self.micro_fixed:
            raise self._refusal(
                f"the {self._rows_of_each(share, replicas)} cannot be divided into passes of {self.micro}",
                f"Give --micro-batch-size a divisor of {share}, or another --batch-size.",
            )
        micro = max(size for size in range(1, self.micro + 1) if share % size == 0)
        note = f"train_micro_batch_size_per_gpu: {self.micro} -> {micro}, for {share} rows of a step on each replica"
        return Batch(self.rows, micro, share, note)

    def _solve_without_rows(self, replicas: int) -> Batch:
        if self.micro is not None:
            passes = self.accumulation or 1
            if self.micro_fixed and self.accumulation is None:  # it says nothing about the rows of a step
                passes = -(-USUAL_ROWS // (replicas * self.micro))
            share = self.micro * passes
            return Batch(share * replicas, self.micro, share)
        passes = self.accumulation or 1
        share = -(-USUAL_ROWS // (replicas * passes)) * passes
        return Batch(share * replicas, None if self.accumulation is None else share // passes, share)

    def _rows_of_each(self, share: int, replicas: int) -> str:
        where = f" on each of {replicas} replicas" if replicas > 1 else ""
        return f"{counted(share, 'row')} of a step{where}"

    def _note(self, replicas: int, passes: int) -> str | None:
        if self.accumulation in (None, passes):
            return None
        at_once = f"{replicas} x {self.micro} rows"
        return f"gradient_accumulation_steps: {self.accumulation} -> {passes}, as {at_once} are computed at a time"

    def _refusal(self, message: str, hint: str) -> ConfigError:
        return ConfigError(message, code="invalid_value", where=self.where, hint=hint)
