"""``neoxrun inspect``: what is in a folder of weights."""

from __future__ import annotations

import argparse
import sys

from neoxrun.terminal import streams


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
