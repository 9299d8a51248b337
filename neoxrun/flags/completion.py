"""The options of ``neoxrun completion``."""

from __future__ import annotations

import argparse

_SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun completion``."""
    parser.add_argument(
        "shell", choices=_SHELLS, metavar="SHELL", help="The shell: bash, zsh or fish; there is no default."
    )
