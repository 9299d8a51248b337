"""Work in a second thread of a rank."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_First = TypeVar("_First")
_Second = TypeVar("_Second")


def in_background(function: Callable[[], _Result]) -> Future[_Result]:
    """Call a function in a thread that does not keep the process alive."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # whoever waits has to know
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def both(first: Callable[[], _First], second: Callable[[], _Second]) -> tuple[_First, _Second]:
    """Call two functions at the same time, and return their results; as soon as one raises, raise the same.

    The other may still run then: the process is expected to end.
    """
    one, two = in_background(first), in_background(second)
    futures: list[Future[Any]] = [one, two]
    for done in wait(futures, return_when=FIRST_EXCEPTION).done:
        done.result()
    return one.result(), two.result()
