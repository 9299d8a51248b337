"""The course of a run: steps, evaluations, samples, checkpoints, and its ends before the last step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from neoxrun.config.training import TrainingConfig
from neoxrun.errors import DataError, RankError, Stopped
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.mesh import Mesh
from neoxrun.terminal.log import log
from neoxrun.terminal.words import counted
from neoxrun.training.checkpoints import Checkpoints, rows_checksum
from neoxrun.training.folder import NONE_WRITTEN, SavedCheckpoint
from neoxrun.training.guard import LossGuard, MicroLoss, fixed_scale_error, overflow_error, rows_of
from neoxrun.training.report import Report, StepFacts
from neoxrun.training.trainer import StepResult, Trainer
from neoxrun.training.ways_on import after_divergence

_DUE: Final = ("evaluation", "samples")
_MOST_LEFT_OUT: Final = 10
"""Steps in a row that fp16 may leave out at a fixed loss scale."""


class _AskedToEnd(Exception):
    """A rank was asked to end, as all ranks know."""


@dataclass(frozen=True)
class Watching:
    """What the loop asks and tells the process around it.

    Attributes:
        report: on rank 0; None on the others.
        stopped: whether this process was asked to end.
        samples: writes the samples, on all ranks together; it calls what it is given before each token.
        extra: collects what belongs to a checkpoint besides layer files and state, on all ranks together; what it
            returns writes that into the checkpoint's folder, on rank 0.
    """

    report: Report | None
    stopped: Callable[[], bool]
    samples: Callable[[Callable[[], None]], dict[str, str]]
    extra: Callable[[], Callable[[Path], object]]


class Loop:
    """A run from its first step, or from a checkpoint, to its last; all ranks have one.

    Args:
        trainer: makes the steps.
        checkpoints: writes them.
        mesh: this rank among the others.
        training: the settings.
        watching: the process around it.
    """

    def __init__(
        self, trainer: Trainer, checkpoints: Checkpoints, mesh: Mesh, training: TrainingConfig, watching: Watching
    ) -> None:
        self._trainer, self._checkpoints, self._mesh, self._training = trainer, checkpoints, mesh, training
        precision = trainer.engine.model.stage.precisions.weights
        self._watching, self._guard = watching, LossGuard(precision, stop_at_spike=training.stop_at_spike)
        self._done = self._applied = self._evaluations = self._tokens = self._left_out = 0
        self._saved: int | None = None
        self._due: list[str] = []
        self._eval_loss: float | None = None
        self._first = 0

    def resume(self, saved: SavedCheckpoint, *, anyway: bool) -> None:
        """Continue after a checkpoint, whose weights the network has already; all ranks do this together.

        Args:
            saved: the checkpoint.
            anyway: even if the rows have changed.

        Raises:
            DataError: the rows have changed, or other parameters were trained.
            CheckpointError: a file is damaged.
        """
        self._checkpoints.restore(saved)
        same = saved.facts["rows"] == self._rows_of(saved.step)
        if not same and not anyway:
            raise DataError(
                f"the rows of step {saved.step} are not those that the run was trained on: its data have changed",
                code="different_run",
                where=str(saved.path),
                hint="Give the same data, or continue with the new ones by --resume-anyway.",
            )
        self._done = self._saved = saved.step
        self._applied = int(saved.facts["applied"])
        self._evaluations, self._tokens = int(saved.facts["evaluations"]), int(saved.facts["tokens"])
        self._eval_loss, self._due = saved.eval_loss, list(saved.facts.get("due", ()))
        if same:  # those of other data may be at another level
            self._guard.remember(saved.facts.get("losses", ()))
        if self._watching.report is not None:
            self._watching.report.tell(f"continuing after step {saved.step}", step=saved.step)

    def start_after(self, step: int, applied: int) -> None:
        """Begin after a step that GPT-NeoX has made, with the rows that it would have used next.

        Args:
            step: the last that it has made.
            applied: how many up to it were not left out.
        """
        self._done, self._first, self._applied = step, step, applied
        # As GPT-NeoX, which makes no evaluation before its first step (megatron/data/data_utils.py, start_iter_val).
        # It counts micro-batches there, not steps: where it accumulates and stopped between two evaluations, it takes
        # other rows than a whole run would have, and this does not.
        if self._training.eval_interval:
            self._evaluations = step // self._training.eval_interval

    def run(self) -> None:
        """Train to the last step.

        Raises:
            Stopped: this process was asked to end; there is a checkpoint.
            RankError: the loss or the gradients are not numbers, or the loss has jumped.
            DataError: a checkpoint cannot be written.
        """
        if self._done == 0:
            self._due = [*_DUE]
        try:
            self._train()
        except _AskedToEnd:
            self._stop()

    def _train(self) -> None:
        training, total = self._training, self._training.train_iters
        if self._due:
            self._look()
        while self._done < total:
            self._end_if_asked()
            self._step()
            done = self._done
            if done == total or _every(training.eval_interval, done):
                self._due = [*_DUE]
                self._look()
            if done == total or done in training.save_iters or _every(training.save_interval, done):
                self._save()

    def _step(self) -> None:
        scale = self._trainer.engine.loss_scale
        result = self._trainer.step(self._done, self._applied)
        # Loss scaling leaves steps out to find its scale. In other formats, gradients that are no numbers stay so.
        norm = None if scale is not None and not result.applied else result.grad_norm
        if not self._guard.accepts(result.loss, norm, typical=result.learned > 0):
            self._fail(partial(self._guard.error, self._done + 1, result.loss, norm), result)
        if scale is not None and result.exhausted:
            self._fail(partial(overflow_error, self._done + 1, scale), result)
        self._left_out = 0 if result.applied else self._left_out + 1
        most = min(_MOST_LEFT_OUT, self._training.train_iters - self._first)
        if scale is not None and self._training.loss_scale.fixed and self._left_out == most:
            self._fail(partial(fixed_scale_error, self._done + 1, scale, most), result)
        self._done += 1
        self._applied += result.applied
        self._tokens += result.tokens
        self._eval_loss = None
        if (report := self._watching.report) is not None:
            if not result.learned:
                log.warning(f"nothing is learned in step {self._done}: none of the tokens of its rows counts")
            if not result.applied and self._training.loss_scale.fixed:
                log.warning(f"step {self._done} is left out: its gradients overflow at the fixed loss scale {scale:g}")
            facts = StepFacts(
                self._done,
                result.loss if result.learned else None,
                result.lr,
                norm,
                result.tokens,
                result.seconds,
                loss_scale=scale,
                skipped=not result.applied,
            )
            report.step(facts)

    def _look(self) -> None:
        """Evaluate and write samples, whatever of it is due; a checkpoint that has been written before notes it."""
        measured = _DUE[0] in self._due
        for what, work in zip(_DUE, (self._evaluate, self._sample), strict=True):
            if what in self._due:
                work()
                self._due.remove(what)
        if self._saved == self._done:
            self._checkpoints.amend(self._done, self._evaluated_facts(), self._training.keep, measured=measured)

    def _evaluate(self) -> None:
        if self._trainer.valid is not None and self._training.eval_iters:
            self._eval_loss = self._trainer.evaluate(self._evaluations, self._end_if_asked)
            # The one before the first step, which GPT-NeoX does not make, has the rows of the first that it makes.
            self._evaluations += self._done > 0
            if self._eval_loss is not None and not math.isfinite(self._eval_loss):
                raise self._shared(self._guard.evaluation_error(self._done, self._eval_loss, self._kept))
            if self._watching.report is not None and self._eval_loss is not None:
                self._watching.report.evaluated(self._done, self._eval_loss)
            elif self._watching.report is not None:
                log.warning(f"no evaluation after {counted(self._done, 'step')}: none of the tokens of its rows counts")

    def _sample(self) -> None:
        texts = self._watching.samples(self._end_if_asked)
        if self._watching.report is not None and texts:
            self._watching.report.sampled(self._done, texts)

    def _save(self) -> None:
        """Write a checkpoint, unless there is one of this step."""
        if self._saved == self._done or self._done == self._first:
            return
        facts: dict[str, Any] = {
            "tokens": self._tokens,
            "rows": self._rows_of(self._done),
            "replicas": self._mesh.replicas,
            "losses": self._guard.recent,
            **self._evaluated_facts(),
        }
        self._checkpoints.save(self._done, facts, self._training.keep, self._watching.extra())
        self._saved = self._done
        if (report := self._watching.report) is not None:
            report.tell(f"checkpoint: {self._checkpoints.path_of(self._done)}", step=self._done)
            report.draw()

    def _evaluated_facts(self) -> dict[str, Any]:
        """What a checkpoint notes of the evaluations."""
        facts: dict[str, Any] = {"evaluations": self._evaluations, "due": self._due}
        return facts if self._eval_loss is None else facts | {"eval_loss": self._eval_loss}

    def _end_if_asked(self) -> None:
        if any(meshes.gather_from_all(self._watching.stopped())):
            raise _AskedToEnd

    def _stop(self) -> NoReturn:
        self._save()
        if self._done == self._first:
            raise Stopped("interrupted before the first step", hint=NONE_WRITTEN)
        raise Stopped(
            f"interrupted after {counted(self._done, 'step')} of {self._training.train_iters}",
            hint=f"{self._checkpoints.path_of(self._done)} is whole; continue with --resume.",
        )

    def _fail(self, error_of: Callable[[list[MicroLoss], str], RankError], result: StepResult) -> NoReturn:
        """End the run with the error of a step, given its micro-batches of all ranks and which checkpoint is kept."""
        mesh, training = self._mesh, self._training
        mine = [
            MicroLoss(
                mesh.rank,
                rows_of(
                    self._done,
                    number,
                    mesh.replica,
                    replicas=mesh.replicas,
                    micro_batch_size=training.micro_batch_size,
                    batch_size=training.train_batch_size,
                ),
                loss,
            )
            for number, loss in enumerate(result.parts)
        ]
        parts = [part for parts in meshes.gather_from_all(mine if mesh.tp_rank == 0 else []) for part in parts]
        raise self._shared(error_of(parts, self._kept))

    @property
    def _kept(self) -> str:
        return after_divergence(None if self._saved is None else self._checkpoints.path_of(self._saved))

    @staticmethod
    def _shared(error: RankError) -> RankError:
        """An error that every rank raises."""
        error.shared = True
        return error

    def _rows_of(self, step: int) -> str:
        """What tells the rows of a step, counted from 1, from others."""
        size = self._training.train_batch_size
        return rows_checksum(self._trainer.train, (step - 1) * size, step * size)


def _every(interval: int, done: int) -> bool:
    return interval > 0 and done % interval == 0
