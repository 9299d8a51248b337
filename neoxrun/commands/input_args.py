"""What ``generate`` and ``score`` share about their input: stdin, and inputs among the configurations."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from neoxrun.config.foreign import is_weights_file
from neoxrun.config.names import SUFFIXES
from neoxrun.terminal.log import log
from neoxrun.terminal.words import printable


def piped_input() -> str | None:
    """``-`` if something is piped or redirected to stdin of a command that is given no input, else None.

    It waits for the first byte, or for the end.
    """
    mode = os.fstat(0).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return None
    log.info("no input is named: reading standard input")
    stdin = cast(io.BufferedReader, sys.stdin.buffer)
    return "-" if stdin.peek(1) else None


def misplaced_input(configs: Sequence[str]) -> str | None:
    """The hint where one of the configurations seems to be the input, or else None."""
    for word in configs:
        path = Path(word)
        with contextlib.suppress(OSError):  # a text that is too long for a name
            if path.is_file() and path.suffix not in SUFFIXES and not is_weights_file(path):
                return f"Is {printable(word)} the input? Give it with -i {printable(word)}."
    return None


def misplaced_text(configs: Sequence[str]) -> str | None:
    """The hint where one of the configurations, of which one is missing, may be a text to continue, or else None."""
    if any(any(map(str.isspace, word)) for word in configs):
        return "Is it a text to continue? Give it with --prompt TEXT."
    if len(configs) > 1 and not all(map(os.path.exists, configs)):
        return "Give a configuration, or a text to continue with --prompt TEXT, or a file of prompts with -i FILE."
    return None
