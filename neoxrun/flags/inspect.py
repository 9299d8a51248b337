"""The options of ``neoxrun inspect``."""

from __future__ import annotations

import argparse

from neoxrun.flags import values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun inspect``."""
    parser.add_argument(
        "folder",
        type=values.path,
        metavar="FOLDER",
        help="GPT-NeoX's `load` folder, one global_step folder, or a Hugging Face folder. No default.",
    )
    parser.add_argument(
        "--iteration",
        type=values.natural,
        metavar="N",
        help="Look at global_step<N>. Default: the one that the file `latest` names.",
    )
    parser.add_argument("--tensors", action="store_true", help="List every tensor.")
    parser.add_argument(
        "--full", action="store_true", help="Look at every number, not only at headers, norms and biases."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
