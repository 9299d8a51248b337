"""The options of ``neoxrun plot``."""

from __future__ import annotations

import argparse

from neoxrun.flags import values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun plot``."""
    parser.add_argument(
        "run_folder",
        type=values.path,
        metavar="RUN",
        help="Folder of a run of `neoxrun finetune`, which may still be training. No default.",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=values.path,
        metavar="FILE",
        help="Picture to write, as PNG, SVG or PDF by the end of its name. Default: loss.png in the folder.",
    )
