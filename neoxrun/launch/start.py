"""The first moments of a process that ``launcher`` or torchrun has started.

torch takes seconds to import. What must work from the start is set up here, before that: Ctrl-C ends the process with
one line, a rank does not outlive its launcher, and a broken installation is reported.

    python -m neoxrun.launch.start worker FOLDER         the only rank, or a rank that torchrun or Slurm has started
    python -m neoxrun.launch.start agent FOLDER          starts the ranks of this host
    python -m neoxrun.launch.start rank FOLDER PARENT    a rank that the agent has started; PARENT is its process id

With PARENT a worker or an agent is the child of a command that runs several jobs, and ends with it, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from neoxrun.errors import Interrupted, NeoxrunError, classify
from neoxrun.launch.job import Job, announced_processes, failure_of, load_job
from neoxrun.launch.termination import TOLD, Termination, release_interrupts
from neoxrun.locks import remove_lock
from neoxrun.terminal import log

_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 5


def main(arguments: Sequence[str]) -> int:
    """Become the agent or a rank, as the arguments say, and return the exit code."""
    role, folder = arguments[0], Path(arguments[1])
    rank = int(os.environ.get("RANK", "0"))
    termination = Termination()
    verbose, job, lock = False, None, None
    try:
        job = load_job(folder)
        verbose = job.verbosity > 0
        lock = None if role == "rank" else job.lock
        # torchrun marks the lines of the ranks that an agent starts.
        who = None if role == "agent" else rank
        log.set_up(job.verbosity, who, as_json=job.as_json, marked=role != "rank")
        leave = partial(_leave, folder, termination, who, job.continuing, lock)
        if role == "agent":
            answer = partial(
                _answer_signals, folder, termination, leave, interactive=job.interactive, patient=job.patient
            )
            threading.Thread(target=answer, daemon=True).start()
        else:
            # Not an exception: libraries catch more than they should while they are imported.
            signal.signal(signal.SIGINT, lambda number, frame: leave())
            if role == "worker":
                termination.watch(signal.SIGTERM, None if job.patient else leave)
            else:  # the agent ends it, if need be
                termination.watch(TOLD)
            release_interrupts()
        if len(arguments) > 2:
            _end_with(int(arguments[2]))
        return _load(role, termination)(job, folder)
    except Exception as error:
        log.details_of(error)
        failure = failure_of(classify(error), rank, verbose=verbose)
    finally:
        remove_lock(lock)
    if role == "rank":
        failure.save(folder)  # for the agent
    elif job is not None and job.owned:
        failure.save_as_cause(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        print(failure.text, file=sys.stderr)
    return failure.exit_code


def _load(role: str, termination: Termination) -> Callable[[Job, Path], int]:
    """Import the main function of a role.

    Raises:
        NeoxrunError: a library that it needs cannot be loaded.
    """
    try:
        if role == "agent":
            from neoxrun.launch import agent

            return agent.main
        from neoxrun.launch import worker
    except (ImportError, OSError, MemoryError) as error:
        raise NeoxrunError(
            f"a library cannot be loaded: {str(error) or type(error).__name__}",
            code="broken_installation",
            hint="Install neoxrun again, into a fresh environment; `python -c 'import torch'` shows more.",
        ) from error
    return partial(worker.main, supervised=role == "rank", termination=termination)


def _answer_signals(
    folder: Path, termination: Termination, leave: Callable[[], NoReturn], *, interactive: bool, patient: bool
) -> None:
    """Answer Ctrl-C and SIGTERM in the agent, in a thread: torchrun can be in a call that does not handle signals.

    The ranks that answer Ctrl-C themselves are told, and have a few seconds to finish what they are writing, or as long
    as it takes with ``patient``. If there are no such ranks, or they do not end, this process ends, and the system ends
    the ranks with it.
    """
    signals = {signal.SIGINT, signal.SIGTERM}
    end: float | None = None
    while True:
        if end is None:
            number = signal.sigwait(signals)
        elif (found := signal.sigtimedwait(signals, max(0, end - time.monotonic()))) is None:
            break
        else:
            number = signal.Signals(found.si_signo)
        termination.raised |= number == signal.SIGTERM
        leaders = announced_processes(folder)
        if not leaders:
            break
        for process in leaders:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, TOLD if number == signal.SIGTERM else signal.SIGINT)
        if not patient and (not interactive or termination.raised):
            end = end or time.monotonic() + _GRACE_SECONDS
    leave()


def _leave(
    folder: Path, termination: Termination, rank: int | None, kept: Callable[[], str], lock: Path | None
) -> NoReturn:
    """End this process because of Ctrl-C or SIGTERM, whatever it is doing; rank 0 and the agent say so."""
    shutil.rmtree(folder, ignore_errors=True)
    failure = termination.rename(Interrupted("interrupted", hint=kept()))
    if not rank:
        text = log.error_text(failure, rank, verbose=False)
        line_end = "\n" if os.isatty(2) and not text.startswith("{") else ""
        os.write(2, f"{line_end}{text}\n".encode())  # a print may be in progress
    remove_lock(lock)
    os._exit(failure.exit_code)


def _end_with(parent: int) -> None:
    """Have the system kill this process when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has already ended
        os._exit(1)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    log.finish_line()
    # Not sys.exit: a thread of gloo's that asks for Python's lock while the interpreter is taken down aborts the rank
    # ("terminate called without an active exception"), and a rank that has done its work would count as dead.
    os._exit(code)
