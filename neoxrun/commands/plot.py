"""``neoxrun plot``: the losses of a fine-tuning as a picture."""

from __future__ import annotations

import argparse

from neoxrun.errors import DataError
from neoxrun.terminal.log import log
from neoxrun.terminal.plots import check_plot
from neoxrun.training.folder import PLOT
from neoxrun.training.loss_plot import draw_losses
from neoxrun.training.metrics import read_metrics


def run(args: argparse.Namespace) -> int:
    """Draw the picture."""
    path = args.output or args.run_folder / PLOT
    records = read_metrics(args.run_folder)
    check_plot(path, "--output", "neoxrun plot")
    if not records:
        raise DataError(
            f"the run in {args.run_folder} has made no step yet",
            code="missing_data",
            where=str(args.run_folder),
            hint="Wait for its first step.",
        )
    draw_losses(records, args.run_folder.absolute().name, path)
    log.info(f"losses of {records[-1]['step']} steps: {path}")
    return 0
