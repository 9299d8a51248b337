"""What ``generate`` and ``score`` share about their input: its format, stdin, and inputs among the configurations."""

from __future__ import annotations

import argparse
import io
import os
import stat
import sys
from pathlib import Path
from typing import cast

from neoxrun.config.names import SUFFIXES
from neoxrun.errors import ConfigError
from neoxrun.input.formats import FORMATS
from neoxrun.terminal.log import log


def add_input_format(group: argparse._ArgumentGroup) -> None:
    """``--input-format``."""
    group.add_argument(
        "--input-format",
        choices=FORMATS,
        help="Read the input as this format, compressed or not. Default: what its name says, or else its content.",
    )


def piped_input() -> str | None:
    """``-`` if something is written or redirected to stdin, else None. Waits until there is something, or nothing.

    It is called where no input is named.
    """
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return None
    log.info("no input is named: reading standard input")
    stdin = cast(io.BufferedReader, sys.stdin.buffer)
    return "-" if stdin.peek(1) else None


def explain_misplaced(error: ConfigError, configs: list[str], *, prompts: bool) -> None:
    """Name the option in the hint if an input was given where configurations are.

    Args:
        error: why the configurations cannot be used.
        configs: they as they were given.
        prompts: ``--prompt`` exists.
    """
    for word in configs:
        path = Path(word)
        try:
            is_input = path.is_file() and path.suffix not in SUFFIXES
        except OSError:  # a text that is too long for a name
            is_input = False
        if is_input:
            error.hint = f"Is {word} the input? Give it with -i {word}."
            return
    missing = error.code in ("missing_configuration", "unreadable_configuration")
    if prompts and missing and (len(configs) > 1 or " " in configs[0]):
        error.hint = f"{error.hint or ''} A text to continue is given with --prompt TEXT.".strip()
