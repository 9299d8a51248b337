"""A job that works for the program that has started it, from any thread of it. No torch here."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading

from neoxrun.errors import NeoxrunError, RankError
from neoxrun.launch.job import Job, read_cause
from neoxrun.launch.launcher import PROGRAM, role_and_environment
from neoxrun.launch.termination import hold_interrupts


class ChildJob:
    """A job in a child process that has its own process group, so that Ctrl-C does not reach it.

    The system kills the child as soon as the *thread* that has started it ends. So a thread of its own starts it and
    waits for it: the child ends with this process, however that happens, and with nothing before.

    Args:
        job: an owned one, of several ranks.

    Attributes:
        folder: the job's; it exists until ``end``.
        ended: set when the child has ended.

    Raises:
        DataError: temporary files cannot be written.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        role, self._environment = role_and_environment(job)
        assert role == "agent", "the ranks of one host, which nobody else has started"
        self.folder, self._lock = job.save_and_lock()
        self.ended = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._refusal: OSError | None = None

    def start(self) -> None:
        """Start the child.

        Raises:
            OSError: the system cannot start a process.
        """
        started = threading.Event()
        threading.Thread(target=self._supervise, args=(started,), name="neoxrun ranks", daemon=True).start()
        started.wait()
        if self._refusal is not None:
            raise self._refusal

    def failure(self) -> NeoxrunError:
        """Why the child has ended before it was told to."""
        cause = read_cause(self.folder)
        if cause is not None:
            return cause.to_error()
        code = 0 if self._child is None else self._child.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return RankError(f"the process that watches the ranks {how}", code="rank_died", hint=self._job.continuing())

    def end(self, grace: float) -> None:
        """Give the child so many seconds to end, then kill it and with it its ranks, and remove the folder."""
        if self._child is not None and not self.ended.wait(grace):
            self._child.kill()
            self.ended.wait()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _supervise(self, started: threading.Event) -> None:
        hold_interrupts()  # in this thread, and in the child, which inherits it
        try:
            self._child = subprocess.Popen(
                [*PROGRAM, "agent", str(self.folder), str(os.getpid())],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,
                pass_fds=() if self._lock is None else (self._lock,),
            )
        except OSError as error:
            self._refusal = error
            self.ended.set()
            return
        finally:
            started.set()
        self._child.wait()
        self.ended.set()
