"""``neoxrun diff``: two folders of weights, tensor by tensor."""

from __future__ import annotations

import argparse
import sys

from neoxrun.errors import Different
from neoxrun.terminal import streams


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
