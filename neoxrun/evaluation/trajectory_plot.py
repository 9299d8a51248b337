"""Results over revisions as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neoxrun.evaluation.trajectory import Curve, Point, curves
from neoxrun.terminal.plots import plot_mark, unwritable_plot

_MOST_STEPS = 100  # first to last step: above this ratio the axis is logarithmic


def draw_revisions(points: Sequence[Point], title: str, path: Path) -> None:
    """Draw every metric over the steps, with standard errors; metrics of one name share axes.

    The axis is logarithmic where the steps span two orders of magnitude. If a revision has no step in its name, the
    revisions are evenly spaced.

    Args:
        points: the results, in order.
        title: above the picture.
        path: where to; its end decides the format.

    Raises:
        DataError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # it takes a second to import

    by_metric: dict[str, list[Curve]] = {}
    for curve in curves(points):
        by_metric.setdefault(curve.metric, []).append(curve)
    count = max(1, len(by_metric))
    figure = Figure(figsize=(8, 1 + 3.2 * count), layout="constrained")
    figure.suptitle(title)
    for axes, (metric, found) in zip(figure.subplots(count, squeeze=False)[:, 0], by_metric.items(), strict=False):
        _draw_metric(axes, points, metric, found)
    try:
        figure.savefig(path, dpi=150, metadata=plot_mark(path))
    except OSError as error:
        raise unwritable_plot(path, error) from None


def _draw_metric(axes: Any, points: Sequence[Point], metric: str, found: Sequence[Curve]) -> None:
    steps = [point.step for point in points if point.step is not None]
    numbered = len(steps) == len(points)
    places = steps if numbered else list(range(len(points)))
    for curve in found:
        drawn = [
            (place, value, error or 0.0)
            for place, value, error in zip(places, curve.values, curve.errors, strict=True)
            if value is not None
        ]
        if drawn:
            at, values, errors = zip(*sorted(drawn), strict=True)
            axes.errorbar(at, values, yerr=errors, marker="o", markersize=3, capsize=2, label=curve.task)
    axes.set(xlabel="step" if numbered else "revision", ylabel=metric)
    positive = [step for step in steps if step > 0]
    if not numbered:
        axes.set_xticks(places, labels=[point.name for point in points], rotation=45, ha="right")
    elif positive and max(positive) > _MOST_STEPS * min(positive):
        axes.set_xscale("symlog", linthresh=min(positive))
    axes.legend()
