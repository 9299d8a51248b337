"""Values of options, from their texts."""

from __future__ import annotations

import argparse
from pathlib import Path


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    return _whole(text, 1)


def path(text: str) -> Path:
    """A path. An empty text, which is what an unset shell variable leaves, would mean the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; is a shell variable not set?")
    return Path(text)


def natural(text: str) -> int:
    """A whole number of 0 or more."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
    return int(text)


def gpu_list(text: str) -> tuple[int, ...]:
    """Numbers of GPUs, each once."""
    numbers = tuple(natural(part.strip()) for part in text.split(","))
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text!r} names a GPU twice")
    return numbers


def limit(text: str) -> float:
    """A whole number of 1 or more, or a fraction between 0 and 1."""
    try:
        number = int(text) if text.isascii() and text.isdigit() else float(text)
    except ValueError:
        number = 0
    if (isinstance(number, int) and number >= 1) or 0 < number < 1:
        return number
    raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number of 1 or more nor a fraction between 0 and 1")
