"""``neoxrun completion``: a script with which a shell completes commands, options and their values."""

from __future__ import annotations

import argparse
import sys

import shtab

# By what the help calls an option's value.
_PATHS = {"FILE": shtab.FILE, "FILE.png": shtab.FILE, "CONFIG": shtab.FILE, "DIR": shtab.DIRECTORY}


def run(args: argparse.Namespace) -> int:
    """Print the script, for the parser that ``args.build_parser`` makes."""
    parser = args.build_parser()
    _complete_paths(parser)
    sys.stdout.write(shtab.complete(parser, args.shell))
    return 0


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    """Have the values that are files or folders completed as such."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command)
        elif action.metavar in _PATHS:
            action.complete = _PATHS[str(action.metavar)]  # type: ignore[attr-defined]
