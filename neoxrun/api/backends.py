"""Where the model of an ``LLM`` is: in a thread of this process, or in all processes that torchrun has started.

``api.ranks`` has the third kind, ranks that the program starts itself.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from neoxrun.engine.allocator import return_freed_memory
from neoxrun.engine.session import Session
from neoxrun.errors import NeoxrunError, classify
from neoxrun.parallel import mesh as meshes
from neoxrun.serving.local import ModelArguments, open_local, use_device
from neoxrun.serving.loop import EngineLoop
from neoxrun.serving.messages import Cancel, Close, Event, Message, Ready
from neoxrun.tokenizer import Tokenizer

Receive = Callable[[Sequence[Event]], None]


@dataclass(frozen=True)
class Callbacks:
    """Who hears of what comes.

    Attributes:
        receive: is given events, in the order in which they come.
        end: is told that nothing more comes, and why.
    """

    receive: Receive
    end: Callable[[NeoxrunError], None]


class Backend(Protocol):
    """A loaded model that takes messages from any thread."""

    ready: Ready
    tokenizer: Tokenizer

    def send(self, messages: Sequence[Message]) -> None:
        """Ask something of the model; returns at once, or when all of it is done."""

    def close(self) -> None:
        """End all work, free the weights, and end what was started. May be called more than once."""


class ThreadBackend:
    """The model in this process, with a thread that owns it.

    Args:
        arguments: which model.
        batch_size: most texts at a time; None: what fits.
        callbacks: who hears of what comes.
    """

    def __init__(self, arguments: ModelArguments, batch_size: int | None, callbacks: Callbacks) -> None:
        session = open_local(arguments, started=False)
        self.ready, self.tokenizer = _ready(session), session.tokenizer
        loop = EngineLoop(session, callbacks.receive, batch_size=batch_size)
        self._inbox = loop.inbox
        threads = torch.get_num_threads()  # of this thread: another one would begin with the default

        def work() -> None:
            nonlocal loop, session
            torch.set_num_threads(threads)
            use_device(session.mesh.device)
            try:
                loop.run()
                session.replica.runner.close()
            except BaseException as error:  # whoever waits has to know
                callbacks.end(classify(error, 0))
            finally:
                del loop, session

        self._thread = threading.Thread(target=work, name="neoxrun engine", daemon=True)
        self._thread.start()

    def send(self, messages: Sequence[Message]) -> None:
        """See ``Backend``; returns at once."""
        for message in messages:
            self._inbox.put(message)

    def close(self) -> None:
        """See ``Backend``."""
        self._inbox.put(Close())
        if threading.current_thread() is not self._thread:
            self._thread.join()
            free_memory()


class CollectiveBackend:
    """One process of several that torchrun or Slurm has started; all of them make the same calls in the same order.

    A call is carried out as it is sent. The leader does the work, and all processes get its events, failures included.
    Where a process fails in the middle of what all do together, it is out of step: it asks nothing more of the others,
    which would wait for ever, and all its requests fail, later ones too.

    Args:
        arguments, batch_size, callbacks: as for ``ThreadBackend``.
    """

    def __init__(self, arguments: ModelArguments, batch_size: int | None, callbacks: Callbacks) -> None:
        self._session: Session | None = open_local(arguments, started=True)
        self.ready, self.tokenizer = _ready(self._session), self._session.tokenizer
        self._callbacks, self._batch_size = callbacks, batch_size
        self._lock = threading.Lock()

    def send(self, messages: Sequence[Message]) -> None:
        """See ``Backend``; returns when all of it is done."""
        # Nothing is left to be cancelled, and each process would ask for it by itself.
        work = [message for message in messages if not isinstance(message, Cancel)]
        if not work:
            return
        with self._lock:
            session = self._session
            if session is None:
                return
            try:
                shared = self._carry_out(session, work)
            except BaseException as error:  # Ctrl-C too
                self._callbacks.end(classify(error, session.mesh.rank))
                if not isinstance(error, Exception):
                    raise
                return
        self._callbacks.receive(shared)

    def _carry_out(self, session: Session, work: Sequence[Message]) -> list[Event]:
        """Do the work together with the other processes; the events, on all of them."""
        events: list[Event] = []
        if session.mesh.leads:
            loop = EngineLoop(session, events.extend, batch_size=self._batch_size)
            for message in work:
                loop.inbox.put(message)
            loop.run_until_idle()
            session.replica.release_followers()
        else:
            session.replica.follow()
        shared: list[Event] = meshes.share_from_first(events)
        return shared

    def close(self) -> None:
        """See ``Backend``."""
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None
        free_memory()


def free_memory() -> None:
    """Give the system, and the GPU, the memory of what is no longer used."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU was used
    return_freed_memory()


def _ready(session: Session) -> Ready:
    return Ready(session.replica.stage.vocab_size, session.max_context, session.weights)
