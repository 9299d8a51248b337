"""``neoxrun diff``: two folders of weights, tensor by tensor."""

from __future__ import annotations

import argparse
import sys

from neoxrun.commands import common
from neoxrun.errors import Different
from neoxrun.terminal import streams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    for name in ("first", "second"):
        parser.add_argument(
            name,
            type=common.path,
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
    common.add_folder_configuration(parser, "It is for a folder that does not hold its own. Default: none.")


def run(args: argparse.Namespace) -> int:
    """Print the comparison on stdout; the exit code is 0 for equal folders and 6 for others."""
    streams.check_stdout()
    from neoxrun.conversion.diff_folders import diff_folders  # torch takes seconds

    text, equal = diff_folders(
        (args.first, args.second),
        args.config,
        args.overrides,
        logits=args.logits,
        everything=args.all,
        as_json=args.json,
        allow_close=args.allow_close,
        show_progress=args.verbosity >= 0,
    )
    sys.stdout.write(text)
    sys.stdout.flush()
    if not equal:
        raise Different("the folders hold different numbers")
    return 0
