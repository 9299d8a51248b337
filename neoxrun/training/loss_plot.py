"""The losses of a run as a picture. No torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from neoxrun.terminal.plots import plot_mark, unwritable_plot
from neoxrun.training.metrics import Record

_SMOOTHED: Final = 100  # steps from which on a running mean is drawn, too
_WEIGHT: Final = 0.05


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_losses(records: Sequence[Record], title: str, path: Path) -> None:
    """Draw the losses of steps and evaluations, and below them the learning rate and the norm of the gradients.

    Args:
        records: of ``metrics.read_metrics``.
        title: above the picture.
        path: where to; its end decides the format.

    Raises:
        DataError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # it takes a second to import

    figure = Figure(figsize=(8, 7), layout="constrained")
    figure.suptitle(title)
    losses, rates, norms = figure.subplots(3, sharex=True, height_ratios=(4, 1, 1))
    steps, values = _series(records, "loss")
    if values:
        many = len(values) >= _SMOOTHED
        losses.plot(steps, values, color="tab:blue", alpha=0.35 if many else 1.0, label="training")
        if many:
            losses.plot(steps, _running_mean(values), color="tab:blue", label="training, running mean")
    at, measured = _series(records, "eval_loss")
    if measured:
        losses.plot(at, measured, "o-", color="tab:orange", markersize=4, label="evaluation")
    losses.set(ylabel="loss")
    if values or measured:
        losses.legend()
    for axes, name, label in ((rates, "lr", "learning rate"), (norms, "grad_norm", "gradient norm")):
        axes.plot(*_series(records, name), color="tab:gray")
        axes.set(ylabel=label)
    norms.set(xlabel="step")
    try:
        figure.savefig(path, dpi=120, metadata=plot_mark(path))
    except OSError as error:
        raise unwritable_plot(path, error, "--output") from None


def _series(records: Sequence[Record], name: str) -> tuple[list[int], list[float]]:
    found = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _running_mean(values: Sequence[float]) -> list[float]:
    """An exponential mean, without the pull of its beginning (Kingma and Ba, 2015, section 3)."""
    means, mean, weight = [], 0.0, 0.0
    for value in values:
        mean += _WEIGHT * (value - mean)
        weight += _WEIGHT * (1 - weight)
        means.append(mean / weight)
    return means
