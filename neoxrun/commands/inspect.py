"""``neoxrun inspect``: what is in a folder of weights."""

from __future__ import annotations

import argparse
import sys

from neoxrun.commands import common
from neoxrun.terminal import streams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "folder",
        type=common.path,
        metavar="FOLDER",
        help="GPT-NeoX's `load` folder, one global_step folder, or a Hugging Face folder. No default.",
    )
    parser.add_argument(
        "--iteration",
        type=common.natural,
        metavar="N",
        help="Look at global_step<N>. Default: the one that the file `latest` names.",
    )
    parser.add_argument("--tensors", action="store_true", help="List every tensor.")
    parser.add_argument(
        "--full", action="store_true", help="Look at every number, not only at headers, norms and biases."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")


def run(args: argparse.Namespace) -> int:
    """Print what is in the folder on stdout."""
    streams.check_stdout()
    from neoxrun.conversion.inspect import inspect_folder  # torch takes seconds

    text = inspect_folder(
        args.folder,
        args.iteration,
        full=args.full,
        tensors=args.tensors,
        as_json=args.json,
        show_progress=args.verbosity >= 0,
    )
    sys.stdout.write(text)
    return 0
