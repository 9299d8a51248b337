"""When a run must stop: a loss or a gradient that is no number, or a loss that has left its range. No torch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Final, NamedTuple

from neoxrun.config.precisions import nonfinite_hint
from neoxrun.config.settings import Precision
from neoxrun.errors import RankError
from neoxrun.terminal.words import counted

_WINDOW: Final = 50
_FEWEST: Final = 20
_DEVIATIONS: Final = 10
_LEAST: Final = 1.0  # nats
_CURES: Final[Mapping[Precision, str]] = {
    "fp16": "Lower --lr, or use --dtype bf16 or fp32.",
    "bf16": "Lower --lr, or use --dtype fp32.",
    "fp32": "Lower --lr.",
}


class MicroLoss(NamedTuple):
    """The loss of one micro-batch.

    Attributes:
        rank: global rank that computed it.
        rows: numbers of its rows in the order of training, from 0.
        loss: the mean over its tokens.
    """

    rank: int
    rows: range
    loss: float


class LossGuard:
    """Watches the losses of a run.

    A spike is a loss above the mean of the last 50 steps by 1 nat, by that mean and by 10 standard deviations of them,
    whichever is the most, once there are 20. Rows of other kinds move the loss of a step by much less.

    Args:
        precision: in which the model is trained, for what to do about a loss that is not finite.
        stop_at_spike: whether a spike is reported.
    """

    def __init__(self, precision: Precision, *, stop_at_spike: bool = True) -> None:
        self._precision = precision
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._stop_at_spike = stop_at_spike

    def accepts(self, loss: float, grad_norm: float | None, *, typical: bool = True) -> bool:
        """Whether training can continue after a step.

        Args:
            loss: of the step.
            grad_norm: of its gradients; None where it is not known, or where loss scaling has skipped the step.
            typical: whether the losses of later steps are compared with this one.
        """
        if not math.isfinite(loss) or (grad_norm is not None and not math.isfinite(grad_norm)):
            return False
        if self._stop_at_spike and loss > self.bound:
            return False
        if typical:
            self._recent.append(loss)
        return True

    @property
    def recent(self) -> list[float]:
        """The losses with which the next one is compared."""
        return list(self._recent)

    def remember(self, losses: Iterable[float]) -> None:
        """Compare the next loss with these, as ``recent`` gave them where the run was left."""
        self._recent.extend(losses)

    @property
    def bound(self) -> float:
        """The loss above which there is a spike; infinite at the beginning."""
        if len(self._recent) < _FEWEST:
            return math.inf
        mean = fmean(self._recent)
        return mean + max(_LEAST, mean, _DEVIATIONS * pstdev(self._recent))

    def error(
        self, step: int, loss: float, grad_norm: float | None, parts: Sequence[MicroLoss], kept: str
    ) -> RankError:
        """The error for a step that is not accepted, which names the rows and the rank that it comes from.

        Args:
            step: the optimizer step, from 1.
            loss, grad_norm: as for ``accepts``.
            parts: the micro-batches of the step, of all ranks.
            kept: which checkpoint is kept.
        """
        worst = _worst(parts)
        rows = _named(worst)
        if not math.isfinite(worst.loss):
            return RankError(
                f"the loss of step {step} is not a number: it is {worst.loss} for {rows}",
                code="diverged",
                hint=f"{self._cure(step - 1)} {kept}",
            )
        if math.isfinite(loss):
            if grad_norm is not None and not math.isfinite(grad_norm):
                return RankError(
                    f"the gradients of step {step} are not numbers, while its loss is {loss:.4f}; it is the highest, "
                    f"{worst.loss:.4f}, for {rows}",
                    code="diverged",
                    hint=f"{self._cure(step - 1)} {kept}",
                )
            return RankError(
                f"the loss has jumped to {loss:.4f} in step {step}, from {fmean(self._recent):.4f} in the steps before "
                f"it; it is the highest, {worst.loss:.4f}, for {rows}",
                code="diverged",
                hint=f"Look at these rows, lower --lr or --gradient-clipping, or train on with --ignore-spikes. {kept}",
            )
        return RankError(
            f"the loss of step {step} is {loss}, although that of each micro-batch is a number",
            code="diverged",
            hint=f"{self._cure(step - 1)} {kept}",
        )

    def evaluation_error(self, done: int, loss: float, kept: str) -> RankError:
        """The error for an evaluation whose loss is not a number.

        Args:
            done: steps before it.
            loss: of the evaluation.
            kept: which checkpoint is kept.
        """
        return RankError(
            f"the loss of the evaluation after {counted(done, 'step')} is {loss}",
            code="diverged",
            hint=f"{self._cure(done)} {kept}",
        )

    def _cure(self, done: int) -> str:
        """What to do about a loss that is not finite after this many steps."""
        return _CURES[self._precision] if done else nonfinite_hint(self._precision)


def overflow_error(step: int, scale: float, parts: Sequence[MicroLoss], kept: str) -> RankError:
    """The error for a step whose gradients are beyond fp16, although its loss is multiplied by the least scale.

    Args:
        step: the optimizer step, from 1.
        scale: by which its loss was multiplied.
        parts, kept: as for ``LossGuard.error``.
    """
    worst = _worst(parts)
    return RankError(
        f"the gradients of step {step} are beyond fp16 even at the least loss scale, {scale:g}; the loss is the "
        f"highest, {worst.loss:.4f}, for {_named(worst)}",
        code="diverged",
        hint=f"{_CURES['fp16']} {kept}",
    )


def fixed_scale_error(step: int, scale: float, left_out: int, parts: Sequence[MicroLoss], kept: str) -> RankError:
    """The error for steps that fp16 has left out one after the other, at a loss scale that does not adapt.

    Args:
        step: the last of them, from 1.
        scale: by which their losses were multiplied.
        left_out: how many they are.
        parts, kept: as for ``LossGuard.error``, of the last.
    """
    worst = _worst(parts)
    return RankError(
        f"{counted(left_out, 'step')} in a row, up to step {step}, have gradients beyond fp16 at the fixed loss scale, "
        f"{scale:g}; the loss is the highest, {worst.loss:.4f}, for {_named(worst)}",
        code="diverged",
        hint=f"Give fp16 a lower loss_scale, or 0 for one that adapts, or use --dtype bf16 or fp32. {kept}",
    )


def _worst(parts: Sequence[MicroLoss]) -> MicroLoss:
    """The first whose loss is no number, or else that with the highest."""
    return max(parts, key=lambda part: part.loss if math.isfinite(part.loss) else math.inf)


def _named(part: MicroLoss) -> str:
    rows = f"rows {part.rows.start} to {part.rows.stop - 1}" if len(part.rows) > 1 else f"row {part.rows.start}"
    return f"{rows} of the training data, on rank {part.rank}"


def rows_of(step: int, micro: int, replica: int, *, replicas: int, micro_batch_size: int, batch_size: int) -> range:
    """The rows of a micro-batch, as GPT-NeoX deals them out (megatron/data/samplers.py).

    Args:
        step: optimizer step, from 0.
        micro: number of the micro-batch within the step, from 0.
        replica: data-parallel rank.
        replicas: data-parallel ranks.
        micro_batch_size: rows of a micro-batch.
        batch_size: rows of a step.
    """
    start = step * batch_size + (micro * replicas + replica) * micro_batch_size
    return range(start, start + micro_batch_size)
