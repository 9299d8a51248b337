"""Work of every rank that must fail on all if it fails on one."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TypeVar

from neoxrun.errors import NeoxrunError, classify
from neoxrun.parallel.mesh import gather_from_all

_T = TypeVar("_T")


def attempt(work: Callable[[], _T], rank: int) -> tuple[_T | None, NeoxrunError | None]:
    """What ``work`` returns, or the error that the other ranks are to hear of; others are raised."""
    try:
        return work(), None
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # what they hold of a model is memory that the next one may need
        failure = classify(error, rank)
        if failure is not error and failure.code != "out_of_memory":
            raise
        return None, failure


def together(work: Callable[[], _T], rank: int) -> _T:
    """What ``work``, in which the ranks do not wait for each other, returns on this rank; all ranks call it.

    Raises:
        NeoxrunError: the first of the ranks' errors, on every rank.
    """
    result, failure = attempt(work, rank)
    for other in gather_from_all(failure):
        if other is not None:
            other.shared = True
            raise other
    assert result is not None
    return result
