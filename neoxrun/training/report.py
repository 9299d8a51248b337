"""What is said of a run while it trains: on the terminal, in its folder, and to trackers. Rank 0 only; no torch."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from neoxrun.errors import DataError
from neoxrun.terminal.json_lines import JsonFormatter
from neoxrun.terminal.log import log
from neoxrun.terminal.progress import Bar
from neoxrun.terminal.words import counted, printable
from neoxrun.training.effort import Effort
from neoxrun.training.folder import LOG, METRICS, PLOT, SAMPLES, RunFolder
from neoxrun.training.loss_plot import can_draw, draw_losses
from neoxrun.training.metrics import JsonLines, read_metrics
from neoxrun.training.trackers import TensorBoardTracker, Tracker, WandbTracker

_RECENT: Final = 20  # steps over which speed is measured
_WANDB: Final = "wandb.json"
_TENSORBOARD: Final = "tensorboard"


@dataclass(frozen=True)
class StepFacts:
    """One optimizer step.

    Attributes:
        step: its number, from 1.
        loss: of its rows; None where none of their tokens counts.
        lr: the learning rate that it used.
        grad_norm: of its gradients, before clipping; None where it is not known.
        tokens: that went through the network, over all ranks.
        seconds: that it took.
        loss_scale: with which fp16 was computed; None for other formats.
        skipped: the gradients overflowed, and the loss scale was lowered instead of a step.
    """

    step: int
    loss: float | None
    lr: float
    grad_norm: float | None
    tokens: int
    seconds: float
    loss_scale: float | None = None
    skipped: bool = False


class Report:
    """Everything that watches a run; a context manager.

    Args:
        folder: of the run.
        done: steps that are behind it.
        total: steps that it will have.
        effort: what a token costs, for MFU.
        show_progress: show a bar on a terminal, or lines elsewhere.
        trackers: where metrics go, too.

    Raises:
        DataError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        done: int,
        total: int,
        effort: Effort,
        show_progress: bool,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._folder, self._total, self._effort, self._trackers = folder, total, effort, trackers
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self._metrics, self._samples = JsonLines(folder, METRICS, done), JsonLines(folder, SAMPLES, done)
        self._messages = _RunLog(folder)
        log.addHandler(self._messages)
        self._bar = Bar("training", total, "step", show=show_progress, done=done, closing=self._closing)
        self._last: StepFacts | None = None

    def step(self, facts: StepFacts) -> None:
        """Note one step.

        Raises:
            DataError: the folder cannot be written.
        """
        self._last = facts
        self._recent.append((facts.tokens, facts.seconds))
        speed = self.tokens_per_second
        mfu = self._effort.utilization(speed)
        record: dict[str, Any] = {
            "step": facts.step,
            "loss": _finite(facts.loss),
            "lr": facts.lr,
            "grad_norm": _finite(facts.grad_norm),
            "tokens": facts.tokens,
            "seconds": round(facts.seconds, 6),
            "tokens_per_second": round(facts.tokens / facts.seconds, 2),
        }
        record |= {} if mfu is None else {"mfu": round(mfu, 4)}
        record |= {} if facts.loss_scale is None else {"loss_scale": facts.loss_scale, "skipped": facts.skipped}
        self._metrics.add(record)
        self._bar.note = _note(facts, speed, mfu)
        self._bar.facts = {**record, "steps": self._total}
        self._bar.update()
        values = {key: value for key, value in record.items() if value is not None and key not in ("step", "skipped")}
        for tracker in self._trackers:
            tracker.add(facts.step, {f"train/{key}": float(value) for key, value in values.items()})

    def evaluated(self, step: int, loss: float) -> None:
        """Note an evaluation, after ``step`` steps.

        Raises:
            DataError: the folder cannot be written.
        """
        record = {"step": step, "eval_loss": _finite(loss)}
        self._metrics.add(record)
        # The perplexity of more than 700 nats is beyond a float.
        perplexity = f", perplexity {math.exp(loss):.2f}" if loss < 700 else ""
        self._bar.tell(f"evaluation after {counted(step, 'step')}: loss {loss:.4f}{perplexity}", record)
        for tracker in self._trackers:
            tracker.add(step, {"eval/loss": loss})

    def sampled(self, step: int, texts: Mapping[str, str]) -> None:
        """Note what the model writes after ``step`` steps.

        Args:
            step: steps that it has been trained for.
            texts: the text for each prompt.

        Raises:
            DataError: the folder cannot be written.
        """
        for prompt, text in texts.items():
            record = {"step": step, "prompt": prompt, "text": text}
            self._samples.add(record)
            self._bar.tell(f"sample: {printable(prompt)} -> {printable(text)}", record)
        for tracker in self._trackers:
            tracker.add_texts(step, texts)

    def tell(self, text: str, **facts: object) -> None:
        """A message, above the bar."""
        self._bar.tell(text, facts)

    def draw(self) -> None:
        """Draw the losses so far, where matplotlib is installed. A picture that cannot be drawn stops nothing."""
        if not can_draw():
            return
        growing = self._folder.path / f".{PLOT}"
        try:
            draw_losses(read_metrics(self._folder.path), self._folder.path.absolute().name, growing)
            growing.replace(self._folder.path / PLOT)
        except (DataError, OSError) as error:
            log.warning(f"the losses cannot be drawn: {error}")

    @property
    def tokens_per_second(self) -> float:
        """Of the last steps, over all ranks."""
        seconds = sum(seconds for _, seconds in self._recent)
        return sum(tokens for tokens, _ in self._recent) / seconds if seconds else 0.0

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar, the files and the trackers."""
        try:
            self._bar.__exit__(kind, error, trace)
            self._metrics.close()
            self._samples.close()
            if error is None:
                self.draw()
        finally:
            for tracker in self._trackers:
                tracker.close(failed=error is not None)
            log.removeHandler(self._messages)
            self._messages.close()

    def _closing(self, bar: Bar) -> str:
        text = f"{counted(bar.count, 'step')} in {bar.seconds:.1f} s"
        if self._last is None:
            return text
        speed = self.tokens_per_second
        return f"{text}: {_note(self._last, speed, self._effort.utilization(speed))}"


def open_trackers(
    folder: RunFolder, settings: Mapping[str, Any], *, wandb: str | None, tensorboard: bool
) -> list[Tracker]:
    """The trackers that a run was asked for.

    Args:
        folder: of the run.
        settings: of the run.
        wandb: project in Weights & Biases; None: none.
        tensorboard: write TensorBoard's files.

    Raises:
        DataError: one of them cannot be used.
    """
    trackers: list[Tracker] = []
    if wandb is not None:
        tracker = WandbTracker(wandb, folder.path, settings, _run_id(folder.path, wandb))
        folder.write_text(_WANDB, json.dumps({"project": wandb, "id": tracker.run_id}) + "\n")
        trackers.append(tracker)
    if tensorboard:
        with folder.writing():
            trackers.append(TensorBoardTracker(folder.path / _TENSORBOARD))
    return trackers


def _run_id(folder: Path, project: str) -> str | None:
    """The id of the run in Weights & Biases that the folder belongs to, if it is in this project."""
    try:
        values = json.loads((folder / _WANDB).read_bytes())
        return str(values["id"]) if values["project"] == project else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _note(facts: StepFacts, speed: float, mfu: float | None) -> str:
    share = "" if mfu is None else f", MFU {100 * mfu:.1f} %"
    loss = "no loss" if facts.loss is None else f"loss {facts.loss:.4f}"
    return f"{loss}, rate {facts.lr:.2e}, {speed:,.0f} tokens/s{share}"


class _RunLog(logging.FileHandler):
    """The messages of a run, as JSON lines in its folder."""

    def __init__(self, folder: RunFolder) -> None:
        with folder.writing():
            super().__init__(folder.path / LOG, encoding="utf-8")
        self.setFormatter(JsonFormatter(None))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing: the metrics are in the same folder, and their writing reports what is wrong with it."""
