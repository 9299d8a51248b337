"""The report as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neoxrun.benchmark.report import CaseResult, Report
from neoxrun.terminal.plots import plot_mark, unwritable_plot


def draw_report(report: Report, path: Path) -> None:
    """Draw how decoding grows with the batch, and how near each case comes to its floor.

    Args:
        report: what was measured.
        path: where to; its end decides the format.

    Raises:
        DataError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # it takes a second to import

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{report.model}, {report.dtype}, tp {report.tp} x pp {report.pp}, {report.device}")
    _draw_decoding(left, [result for result in report.results if result.case.what == "decode"])
    _draw_shares(right, report.results)
    try:
        figure.savefig(path, dpi=150, metadata=plot_mark(path))
    except OSError as error:
        raise unwritable_plot(path, error) from None


def _draw_decoding(axes: Any, results: list[CaseResult]) -> None:
    batches = [result.case.batch for result in results]
    axes.plot(batches, [result.floor_rate for result in results], "--", color="grey", label="floor")
    axes.plot(batches, [result.rate for result in results], "o-", label="neoxrun")
    compared = [(result.case.batch, result.reference_rate) for result in results if result.reference_rate is not None]
    if compared:
        axes.plot(*zip(*compared, strict=True), "s-", label="transformers")
    axes.set(xscale="log", yscale="log", xlabel="sequences", ylabel="tokens/s", title="decode")
    axes.set_xticks(batches, labels=[str(batch) for batch in batches], minor=False)
    axes.minorticks_off()
    axes.legend()


def _draw_shares(axes: Any, results: tuple[CaseResult, ...]) -> None:
    shares = [100 * result.rate / result.floor_rate for result in results]
    bars = axes.barh([result.name for result in results], shares)
    axes.bar_label(bars, fmt="%.0f %%", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="% of the floor", xlim=(0, max(100, *shares) * 1.12), title="share of what the hardware allows")
