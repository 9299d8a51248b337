"""From rows to optimizer steps: which rows a rank computes when, and what each of their tokens weighs in the loss.

The rows of a step do not depend on how many ranks share them: step ``s`` has the rows ``[s * B, (s + 1) * B)``, and of
its micro-batch ``k`` each data-parallel rank has consecutive ones, as in GPT-NeoX.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neoxrun.config.training import TrainingConfig
from neoxrun.parallel.mesh import Mesh
from neoxrun.training.deepspeed_engine import DeepSpeedEngine, MicroBatch
from neoxrun.training.rows import Row, Rows
from neoxrun.training.schedule import learning_rate


class StepResult(NamedTuple):
    """One optimizer step, the same on every rank.

    Attributes:
        loss: of the step's rows, before the step.
        lr: its learning rate.
        grad_norm: global L2 norm of the gradients before clipping; NaN where one of them is not finite.
        applied: False where one is not finite, so that the step was left out.
        exhausted: it was left out in fp16, although the loss scale can fall no further.
        tokens: that the network has seen.
        learned: those of them that were to be predicted; where there are none the loss is 0.
        seconds: how long it took on this rank.
        parts: the losses of this rank's micro-batches, each the mean over its learned tokens.
    """

    loss: float
    lr: float
    grad_norm: float
    applied: bool
    exhausted: bool
    tokens: int
    learned: int
    seconds: float
    parts: list[float]


class Trainer:
    """Steps and evaluations, which all ranks make together.

    Args:
        engine: this rank's.
        mesh: this rank among the others.
        training: the settings.
        train: rows of all steps.
        valid: rows of the evaluations, which are used again from the start once all were used; None: there are none.
    """

    def __init__(
        self, engine: DeepSpeedEngine, mesh: Mesh, training: TrainingConfig, train: Rows, valid: Rows | None
    ) -> None:
        self.engine, self.train, self.valid = engine, train, valid
        self._mesh, self._training = mesh, training

    def step(self, index: int, applied: int) -> StepResult:
        """One optimizer step.

        Args:
            index: its number, from 0.
            applied: how many of the steps before were not left out, which the learning rate follows as DeepSpeed's
                engine has it (``_take_model_step``), and so GPT-NeoX.
        """
        start, size = time.perf_counter(), self._training.train_batch_size
        rate = learning_rate(self._training.schedule, applied + 1)
        rows = [self.train[number] for number in range(index * size, (index + 1) * size)]
        accumulation = self._training.accumulation_steps(self._mesh.replicas)
        update = self.engine.step(self._micro_batches(rows, index * accumulation), rate)
        loss, tokens = update.loss.item(), sum(len(row.learned) for row in rows)
        learned, seconds = _learned(rows), time.perf_counter() - start
        done, parts = (update.grad_norm, update.applied, update.exhausted), update.parts.tolist()
        return StepResult(loss, rate, *done, tokens, learned, seconds, parts)

    def evaluate(self, number: int, between: Callable[[], None]) -> float | None:
        """The mean loss of the next ``eval_iters`` batches of ``valid``; None where none of their tokens counts.

        They are the same ones where ``valid`` has no more.

        Args:
            number: how many evaluations there were before.
            between: called before each batch; what it raises ends the evaluation.
        """
        assert self.valid is not None, "there is nothing to evaluate on"
        size = self._training.eval_iters * self._training.train_batch_size
        first = number * size
        rows = [self.valid[index % len(self.valid)] for index in range(first, first + size)]
        if not _learned(rows):
            return None
        passes = self._training.accumulation_steps(self._mesh.replicas)
        return float(self.engine.evaluate(_with(between, self._micro_batches(rows, 0), passes)).mean())

    def _micro_batches(self, rows: Sequence[Row], number: int) -> Iterator[MicroBatch]:
        """This rank's share of rows that are learned from, or evaluated, together.

        Args:
            rows: all of them, on every rank.
            number: of the first micro-batch, in the run.
        """
        micro, ranks, rank = self._training.micro_batch_size, self._mesh.replicas, self._mesh.replica
        groups = [rows[start : start + micro * ranks] for start in range(0, len(rows), micro * ranks)]
        learned = _learned(rows)
        for offset, group in enumerate(groups):
            own = group[rank * micro : (rank + 1) * micro]
            mask = np.stack([row.learned for row in own])
            # The engine takes the mean over micro-batches and ranks.
            scale = len(groups) * ranks / max(1, learned)
            if self._training.loss_average == "gpt-neox":
                scale = 1 / max(1, int(mask.sum()))
            ids = self._on_device(np.stack([row.ids for row in own]))
            yield MicroBatch(
                (number + offset) * ranks + rank,
                ids[:, :-1],
                ids[:, 1:],
                self._on_device(mask.astype(np.float32) * np.float32(scale)),
            )

    def _on_device(self, values: NDArray[np.int64] | NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._mesh.device, non_blocking=True)


def _with(between: Callable[[], None], batches: Iterator[MicroBatch], passes: int) -> Iterator[MicroBatch]:
    """The micro-batches, with a call before each ``passes`` of them."""
    for number, batch in enumerate(batches):
        if number % passes == 0:
            between()
        yield batch


def _learned(rows: Sequence[Row]) -> int:
    """How many tokens of the rows count."""
    return sum(int(row.learned.sum()) for row in rows)
