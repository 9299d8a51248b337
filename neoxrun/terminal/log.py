"""Messages for people, on stderr."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator

from neoxrun.errors import NeoxrunError
from neoxrun.terminal.json_lines import JsonFormatter, JsonStream, json_line

_PATIENCE_SECONDS = 5

log = logging.getLogger("neoxrun")


def set_up(verbosity: int, rank: int | None = None, *, as_json: bool = False, marked: bool = True) -> None:
    """Send log messages to stderr.

    Args:
        verbosity: -1 shows warnings only, 0 also what is being done, 1 and more also details.
        rank: of this process, None outside of ranks; those above 0 mark their lines, and show only warnings unless
            details are asked for.
        as_json: make every message a JSON object, and whatever else this process writes to stderr.
        marked: False where somebody else marks the lines of this rank.
    """
    quiet = verbosity < 0 or (rank is not None and rank > 0 and verbosity < 1)
    if as_json:
        if not isinstance(sys.stderr, JsonStream):
            sys.stderr = JsonStream(sys.stderr, rank)
        logging.captureWarnings(True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(rank) if as_json else _Formatter(f"[rank {rank}] " if rank and marked else ""))
    log.handlers[:] = [handler]
    if as_json:
        logging.getLogger("py.warnings").handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbosity > 0 else logging.INFO)


def error_text(error: NeoxrunError, rank: int | None = None, *, verbose: bool) -> str:
    """What people, or programs, are told of an error: see ``NeoxrunError.render``, or a line of JSON.

    Args:
        error: the error.
        rank: that it was raised on; None outside of ranks.
        verbose: add the error's code, which JSON always has.
    """
    text = error.render(verbose=verbose)
    if not text or not isinstance(sys.stderr, JsonStream):
        return text
    facts = {"where": error.where, "hint": error.hint, "code": error.code, "exit_code": error.exit_code}
    return json_line("error", rank, error.message, **facts)


def finish_line() -> None:
    """Write what is left on stderr of a line without an end; before this process ends or is replaced."""
    if isinstance(sys.stderr, JsonStream):
        sys.stderr.finish()
    else:
        sys.stderr.flush()


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
    """``warning: ...`` for warnings; plain text for the rest; an exception's traceback below it; all lines marked."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self._mark = mark

    def format(self, record: logging.LogRecord) -> str:
        label = "warning: " if record.levelno >= logging.WARNING else ""
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return "\n".join(self._mark + line for line in f"{label}{record.getMessage()}{trace}".split("\n"))
