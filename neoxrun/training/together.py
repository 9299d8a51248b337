"""What fails on one rank fails on all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from neoxrun.errors import NeoxrunError, classify
from neoxrun.parallel import mesh as meshes
from neoxrun.terminal.log import details_of


@contextmanager
def together(reword: Callable[[Exception], NeoxrunError] = classify) -> Iterator[None]:
    """Around what ranks do apart from each other: an error on one of them is raised on all.

    Args:
        reword: makes the error that is reported of an exception.

    Raises:
        NeoxrunError: of the first rank that failed.
    """
    mine: NeoxrunError | None = None
    try:
        yield
    except Exception as error:
        details_of(error)
        mine = reword(error)
    failed: list[NeoxrunError] = [error for error in meshes.gather_from_all(mine) if error is not None]
    if failed:
        failed[0].shared = True
        raise failed[0]
