"""The options of ``neoxrun diff``."""

from __future__ import annotations

import argparse

from neoxrun.flags import model, values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun diff``."""
    for name in ("first", "second"):
        parser.add_argument(
            name,
            type=values.path,
            metavar=name.upper(),
            help="Folder of weights: GPT-NeoX layer files, sequential files or a Hugging Face folder. No default.",
        )
    parser.add_argument(
        "--logits", action="store_true", help="Compare the logits on a few fixed prompts, too, one layer at a time."
    )
    parser.add_argument(
        "--allow-close",
        action="store_true",
        help="Count numbers as equal that are no further apart than neighbours in the coarser number format.",
    )
    parser.add_argument("--all", action="store_true", help="List every tensor. Default: the 20 most different ones.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    model.add_folder_configuration(parser, "It is for a folder that does not hold its own. Default: none.")
