"""The options of ``neoxrun download``."""

from __future__ import annotations

import argparse
from typing import Final

from neoxrun.flags import values

JOBS: Final = 4
"""Downloads at a time."""

CHECKS: Final = 8
"""Most checks at a time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun download``."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="The model to download: a name that --list shows, or OWNER/NAME on the Hugging Face hub. Default: 20B, "
        "the slim weights of GPT-NeoX-20B (41 GB).",
    )
    what = parser.add_argument_group("what to download and where to put it")
    what.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="Download the data of these tasks instead of a model, into the folder where evaluate looks for it. "
        "Default: none.",
    )
    what.add_argument(
        "--revision",
        metavar="R",
        help="Download this branch, tag or commit of a hub repository, such as step1000 of Pythia. Default: main.",
    )
    what.add_argument(
        "--variant",
        metavar="V",
        help="Download this variant of a hub repository's weights, such as fp16 for model.fp16.safetensors. Default: "
        "the weights without one.",
    )
    what.add_argument(
        "--to",
        type=values.path,
        metavar="DIR",
        help="Download into this folder. Default: the folder where the model's configuration looks, such as "
        "./20B_checkpoints; with --tasks, evaluate's data folder.",
    )
    what.add_argument("--list", action="store_true", help="List the models and tasks that have a name, and exit.")
    what.add_argument(
        "--dry-run", action="store_true", help="Show the files, their sizes and where they come from, and exit."
    )
    what.add_argument("--json", action="store_true", help="Print the result as one JSON object.")
    how = parser.add_argument_group("how to download")
    how.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="URL",
        help="Try this web folder first. For a hub model, use this hub instead, without your token. May be repeated. "
        "Default: the model's own mirrors.",
    )
    how.add_argument(
        "--jobs",
        type=values.positive,
        metavar="N",
        help=f"Download or check N files at a time. Default: {JOBS} downloads; one check for each core, at most "
        f"{CHECKS}.",
    )
    how.add_argument(
        "--manifest",
        type=values.path,
        metavar="FILE",
        help="Check files against the SHA-256 sums in this file: a neoxrun.manifest.json, or the output of sha256sum. "
        "Default: the published sums, or those recorded by the first download.",
    )
    how.add_argument(
        "--ca-bundle",
        type=values.path,
        metavar="FILE",
        help="Trust the certificates in this file. Default: the usual ones, or those of REQUESTS_CA_BUNDLE.",
    )
    again = parser.add_argument_group("checking an existing folder").add_mutually_exclusive_group()
    again.add_argument(
        "--verify",
        type=values.path,
        metavar="DIR",
        help="Check every file in this folder, and download nothing. Default: none.",
    )
    again.add_argument(
        "--repair",
        type=values.path,
        metavar="DIR",
        help="Check every file in this folder, and download only those that are missing or wrong. Default: none.",
    )
