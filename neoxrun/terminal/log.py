"""Messages for people, on stderr."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator

from neoxrun.errors import NeoxrunError

_PATIENCE_SECONDS = 5

log = logging.getLogger("neoxrun")


def set_up(verbosity: int, rank: int = 0) -> None:
    """Send log messages to stderr.

    Args:
        verbosity: -1 shows warnings only, 0 also what is being done, 1 and more also details.
        rank: ranks above 0 mark their lines, and show only warnings unless details are asked for.
    """
    quiet = verbosity < 0 or (rank > 0 and verbosity < 1)
    handler = logging.StreamHandler(sys.stderr)
    prefix = f"[rank {rank}] " if rank else ""
    handler.setFormatter(_Formatter(prefix))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbosity > 0 else logging.INFO)


def details_of(error: BaseException) -> None:
    """The traceback of an exception, where details are asked for (-v).

    neoxrun's own errors, Ctrl-C and a closed pipe have none: it would explain nothing.
    """
    if not isinstance(error, NeoxrunError | KeyboardInterrupt | BrokenPipeError):
        log.debug("This is where it went wrong:", exc_info=error)


@contextlib.contextmanager
def waiting(text: str, say: Callable[[str], object], still: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Show what is being waited for if it takes more than 5 seconds, and again after twice that time, and so on.

    Args:
        text: what is being waited for.
        say: shows a text.
        still: whether the wait continues; asked each time before ``text`` is shown.
    """
    over = threading.Event()

    def watch() -> None:
        pause = _PATIENCE_SECONDS
        while not over.wait(pause) and still():
            say(text)
            pause *= 2

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


class _Formatter(logging.Formatter):
    """``warning: ...`` for warnings; plain text for the rest; an exception's traceback below it."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        label = "warning: " if record.levelno >= logging.WARNING else ""
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{self._prefix}{label}{record.getMessage()}{trace}"
