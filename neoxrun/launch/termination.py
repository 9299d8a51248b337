"""SIGTERM, as from `docker stop`, a batch system or `kill`: answered like Ctrl-C, with another exit code. No torch.

A first process in a container has no default answer to it, so that every process of the command has one of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from neoxrun.errors import Interrupted, NeoxrunError, Terminated
from neoxrun.terminal.ending import ASKED_TO_END

TOLD: Final = signal.SIGUSR1
"""What the agent sends to its ranks in place of SIGTERM, with which torchrun ends them at once when another failed."""

_GRACE_SECONDS: Final = 8  # `docker stop` kills after 10


class Termination:
    """Whether this process has been asked to end.

    Attributes:
        raised: it has.
    """

    def __init__(self) -> None:
        self.raised = False

    def rename(self, failure: NeoxrunError) -> NeoxrunError:
        """The failure that Ctrl-C led to, or would have led to, as SIGTERM's if that was it."""
        if not self.raised or not isinstance(failure, Interrupted):
            return failure
        return Terminated(failure.message.replace("interrupted", "ended by SIGTERM", 1), hint=failure.hint)

    @contextlib.contextmanager
    def answered(self) -> Iterator[None]:
        """Answer SIGTERM as Ctrl-C is answered. Only the main thread can: elsewhere this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._pass_on)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def watch(self, number: signal.Signals, leave: Callable[[], NoReturn] | None = None) -> None:
        """Answer a signal as Ctrl-C is answered, from now on, also where the main thread is in a long call.

        Args:
            number: the signal.
            leave: ends this process; called if it is still running after a few seconds.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        # With a handler of Python's, the number is written to the pipe at once, even in a long call. An event loop has
        # a pipe of its own for as long as it runs, so the handler writes the number, too.
        signal.signal(number, lambda *_: os.write(writing, bytes([number])))
        threading.Thread(target=self._watch, args=(reading, number, leave), daemon=True).start()

    def _watch(self, reading: int, number: signal.Signals, leave: Callable[[], NoReturn] | None) -> None:
        while os.read(reading, 1)[0] != number:
            pass  # Ctrl-C
        self.raised = True
        ASKED_TO_END.set()
        os.kill(os.getpid(), signal.SIGINT)
        if leave is not None:
            time.sleep(_GRACE_SECONDS)
            leave()

    def _pass_on(self, *_: object) -> None:
        self.raised = True
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):  # as shells start what ends with &
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)


def hold_interrupts() -> None:
    """Hold Ctrl-C and SIGTERM back until the program that replaces this one can answer them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def release_interrupts() -> None:
    """Receive them again, and what has come in the meantime."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
