"""Ranks that a program starts for its model, as the command starts them, and that end with it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from logging import INFO, WARNING
from multiprocessing.connection import Connection
from queue import SimpleQueue

from neoxrun.api.backends import Callbacks
from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.config.settings import Settings
from neoxrun.errors import NeoxrunError, RankError, UsageError
from neoxrun.launch.child import ChildJob
from neoxrun.launch.job import Job
from neoxrun.planning.decision import ContextShortened, PrecisionLowered
from neoxrun.planning.devices import Device, cpu_device, visible_gpus
from neoxrun.planning.explain import explain_notes
from neoxrun.planning.planner import make_plan, vocab_size_for_planning
from neoxrun.planning.request import Requested
from neoxrun.serving.connection import accept, listen
from neoxrun.serving.local import ModelArguments
from neoxrun.serving.messages import Close, Message, Ready, ServeOptions
from neoxrun.serving.words import in_python
from neoxrun.terminal.log import log
from neoxrun.tokenizer import load_tokenizer

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0
_KEPT = "Make another LLM."


class RanksBackend:
    """The model in ranks of its own, which are children of this process.

    Args:
        arguments: which model, of more than one rank.
        batch_size: most texts at a time; None: what fits.
        callbacks: who hears of what comes.

    Raises:
        NeoxrunError: the plan does not work, the files are not there, or a rank could not load them.
    """

    def __init__(self, arguments: ModelArguments, batch_size: int | None, callbacks: Callbacks) -> None:
        settings = arguments.settings
        if not arguments.random_weights:
            find_configured_checkpoint(settings)  # the ranks would find it missing seconds later
        self.tokenizer = load_tokenizer(settings.tokenizer)
        self._callbacks = callbacks
        self._child = ChildJob(_job(arguments, settings, batch_size))
        self._outbox: SimpleQueue[Message | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed, self._over = False, threading.Event()
        try:
            self._connection = self._connect()
            self.ready = self._wait_until_ready()
        except BaseException:  # Ctrl-C too
            self._child.end(0)
            raise
        for warning in self.ready.warnings:
            log.warning(in_python(warning))
        for work in (self._send_all, self._receive_all):
            threading.Thread(target=work, name="neoxrun connection", daemon=True).start()

    def send(self, messages: Sequence[Message]) -> None:
        """See ``Backend``; returns at once."""
        for message in messages:
            self._outbox.put(message)

    def close(self) -> None:
        """See ``Backend``."""
        with self._lock:
            first, self._closed = not self._closed, True
        if not first:
            self._over.wait()
            return
        self._outbox.put(Close())
        self._child.end(_GRACE_SECONDS)
        self._outbox.put(None)
        self._over.set()

    def _connect(self) -> Connection:
        """Start the ranks, and wait until they have loaded the model.

        Raises:
            NeoxrunError: a rank could not, and this is why.
        """
        with listen(self._child.folder) as server:
            try:
                self._child.start()
            except OSError as error:
                raise RankError(f"the ranks could not be started: {error.strerror}", code="failed_start") from error
            while (connection := accept(server, _POLL_SECONDS)) is None:
                if self._child.ended.is_set():
                    raise self._child.failure()
        return connection

    def _wait_until_ready(self) -> Ready:
        try:
            ready: Ready = self._connection.recv()
        except (EOFError, OSError):
            self._child.ended.wait()
            raise self._child.failure() from None
        return ready

    def _send_all(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send(message)
            except OSError:  # the ranks have ended; the other thread says so
                return

    def _receive_all(self) -> None:
        try:
            while True:
                self._callbacks.receive(self._connection.recv())
        except (EOFError, OSError):
            pass
        self._child.ended.wait()
        with self._lock:
            closed = self._closed
        if not closed:
            self._callbacks.end(_final(self._child.failure()))
            self.close()


def _final(failure: NeoxrunError) -> NeoxrunError:
    """The failure with what to do after it."""
    failure.hint = f"{failure.hint} {_KEPT}" if failure.hint and _KEPT not in failure.hint else failure.hint or _KEPT
    return failure


def _job(arguments: ModelArguments, settings: Settings, batch_size: int | None) -> Job:
    vocab_size, assumed = vocab_size_for_planning(settings)
    requested = Requested(tp=arguments.tp, pp=arguments.pp, replicas=1, dtype=arguments.dtype, batch_size=batch_size)
    plan = make_plan(settings, _devices(arguments), requested, vocab_size=vocab_size, vocab_assumed=assumed)
    for note, text in zip(plan.notes, explain_notes(plan), strict=True):
        # What the model can do is not as configured.
        lessened = isinstance(note, ContextShortened) or (isinstance(note, PrecisionLowered) and not note.native)
        log.log(WARNING if lessened else INFO, in_python(text))
    return Job(
        "serve",
        settings,
        plan,
        ServeOptions(batch_size),
        random_weights=arguments.random_weights,
        eager=arguments.eager,
        verbosity=0 if arguments.show_progress else -1,
        stall_timeout=arguments.stall_timeout,
        kept=_KEPT,
        owned=True,
    )


def _devices(arguments: ModelArguments) -> list[Device]:
    if arguments.device == "cpu":
        return [cpu_device()]
    gpus = visible_gpus(arguments.gpus)
    if not gpus and arguments.device == "cuda":
        raise UsageError("device is cuda, and no GPU is visible", code="no_gpu", hint="Leave device out, or use cpu.")
    return gpus or [cpu_device()]
