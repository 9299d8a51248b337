"""The options of ``neoxrun bench``."""

from __future__ import annotations

import argparse

from neoxrun.flags import model, values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun bench``."""
    model.add_model_arguments(parser)
    model.add_random_weights(parser)
    model.add_eager(parser)
    model.add_stall_timeout(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--json", action="store_true", help="Print the results as one JSON object.")
    out.add_argument(
        "--plot",
        type=values.path,
        metavar="FILE.png",
        help="Also draw the results into this file (.png, .svg or .pdf); needs matplotlib. Default: no plot.",
    )
    out.add_argument(
        "--compare",
        choices=("transformers",),
        help="Then measure Hugging Face's transformers with the same prompts, on the same shape with random weights; "
        "needs transformers, and a single rank. Default: no comparison.",
    )
