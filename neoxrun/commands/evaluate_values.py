"""Values of the options of ``neoxrun evaluate``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from neoxrun.errors import UsageError
from neoxrun.planning.request import TYPICAL_TEXTS, Work

_TEXTS_A_DOCUMENT: Final = 4  # as many as HellaSwag's have; LAMBADA's have one


def texts_to_score(limit: float | None, tasks: int) -> Work:
    """The work to plan for: the same for every process of a job, since it follows from the command line.

    Args:
        limit: ``--limit``.
        tasks: how many tasks there are.
    """
    if limit is None:
        return TYPICAL_TEXTS
    texts = TYPICAL_TEXTS.prompts * limit if limit < 1 else limit * tasks * _TEXTS_A_DOCUMENT
    return replace(TYPICAL_TEXTS, prompts=min(TYPICAL_TEXTS.prompts, math.ceil(texts)))


def gen_kwargs(texts: Iterable[str]) -> dict[str, Any]:
    """Generation options by name, from the words after ``--gen-kwargs``.

    Raises:
        UsageError: a word is not ``KEY=VALUE``.
    """
    return dict(pair for text in texts for pair in _pairs(text))


def _pairs(text: str) -> list[tuple[str, Any]]:
    """``a=1,b=true`` as names and values; a value that is not JSON is a string."""
    pairs = []
    for part in re.split(r",(?=\w+=)", text):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise UsageError(
                f"--gen-kwargs {text} is not KEY=VALUE",
                code="invalid_value",
                hint="For example --gen-kwargs max_gen_toks=64.",
            )
        try:
            pairs.append((name, json.loads(value)))
        except ValueError:
            words = {"true": True, "false": False, "none": None}
            pairs.append((name, words.get(value.lower(), value)))
    return pairs
