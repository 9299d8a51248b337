"""Options of several commands: the format of the input, and the file of records."""

from __future__ import annotations

import argparse

from neoxrun.input.formats import FORMATS


def add_input_format(group: argparse._ArgumentGroup) -> None:
    """``--input-format``."""
    group.add_argument(
        "--input-format",
        choices=FORMATS,
        help="Read the input as this format, compressed or not. Default: what its name says, or else its content.",
    )


def add_output_arguments(parser: argparse._ActionsContainer, output: str, resume: str, *, anyway: bool) -> None:
    """``-o`` and what may happen to a file that exists.

    Args:
        parser: the command's, or a group of it.
        output, resume: the help of the two options.
        anyway: whether there is ``--resume-anyway``, too.
    """
    parser.add_argument("-o", "--output", metavar="FILE", help=output)
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help=resume)
    if anyway:
        existing.add_argument(
            "--resume-anyway",
            action="store_true",
            help="As --resume, also if another model, number format, seed or other sampling made the records.",
        )
    existing.add_argument(
        "--overwrite",
        action="store_true",
        help="Replace the output file, whatever it holds. Default: only records of the same work.",
    )
