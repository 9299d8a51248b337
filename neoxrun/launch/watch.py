"""Ends a job of which a rank is stuck: in a pass that does not end, or without any sign of life.

Each rank has a thread that looks at its own pass and, through files in the job's folder, for signs of life of the other
ranks of its host. A rank whose pass does not end says so itself; only one without a sign of life is named, and ended,
by the first of the others to notice. How many passes other ranks have made proves nothing: replicas work on their own.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neoxrun.engine.pulse import Pulse
from neoxrun.errors import RankError

_SHOW: Final = signal.SIGUSR2
_CHECKS: Final = 10  # in the time after which a rank counts as stuck
_LONGEST_CHECK: Final = 5.0
_ANSWER_SECONDS: Final = 1.0
_BUSY_SHARE: Final = 0.2  # of a core: a CPU that computes is not stuck, however long it takes
_FRAMES: Final = 12


@dataclass
class _Seen:
    """What is known of a rank of this host.

    Attributes:
        pid: its process.
        replica: the one that it belongs to.
        state: what it has written last.
        seconds: how long that has stayed the same.
    """

    pid: int
    replica: int
    state: str
    seconds: float = 0.0


class Watch:
    """The watch of one rank.

    Args:
        pulse: of this rank.
        rank: its number.
        replica: the one that it belongs to.
        timeout: seconds after which a rank is stuck.
        folder: the job's, in which the ranks of this host see each other; None: this rank watches only itself.
        on_cpu: the ranks compute on the CPU, where computing shows.
        kept: tells which work is kept, for the hint.
        report: called with the error, before this process ends.
    """

    def __init__(
        self,
        pulse: Pulse,
        rank: int,
        *,
        replica: int,
        timeout: float,
        folder: Path | None,
        on_cpu: bool,
        kept: Callable[[], str],
        report: Callable[[RankError], None],
    ) -> None:
        self._pulse, self._rank, self._timeout, self._folder = pulse, rank, timeout, folder
        self._replica, self._on_cpu, self._kept, self._report = replica, on_cpu, kept, report
        self._interval = min(timeout / _CHECKS, _LONGEST_CHECK)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._seen: dict[int, _Seen] = {}
        self._checks = 0
        self._cpu_seconds = time.process_time()
        self._stacks = os.memfd_create("stack") if folder is None else _open_new(folder / f"rank-{rank}.stack")

    def __enter__(self) -> None:
        faulthandler.register(_SHOW, file=self._stacks, all_threads=False)
        self._tell()  # at once: of a rank that is stopped before its first sign of life nobody would know
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """This rank has done its work: the others need not wait for a sign of it."""
        self._ended.set()
        self._thread.join()
        if self._folder is not None:
            (self._folder / f"rank-{self._rank}.alive").unlink(missing_ok=True)

    def _run(self) -> None:
        pass_before, stuck, last = -1, 0.0, time.monotonic()
        while not self._ended.wait(self._interval):
            # A process that was stopped (Ctrl-Z) and continued has not been stuck meanwhile.
            elapsed = min(time.monotonic() - last, 2 * self._interval)
            last = time.monotonic()
            working = self._tell()
            with contextlib.suppress(OSError, ValueError):  # the job's folder is gone: it ends
                working |= self._look_at_others(elapsed)
            if not self._pulse.inside or self._pulse.passes != pass_before or (self._on_cpu and working):
                pass_before, stuck = self._pulse.passes, 0.0
            else:
                stuck += elapsed
            stuck_rank = self._silent_rank(stuck)
            if stuck_rank is None and stuck >= self._timeout:
                stuck_rank = self._rank
            if stuck_rank is not None:
                error = self._error(stuck_rank)
                self._report(error)
                if stuck_rank != self._rank:  # what is stopped would not end by itself
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self._seen[stuck_rank].pid, signal.SIGKILL)
                os._exit(error.exit_code)

    def _tell(self) -> bool:
        """Write a sign of life; whether this process has computed since the last one."""
        before, self._cpu_seconds = self._cpu_seconds, time.process_time()
        working = self._cpu_seconds - before > _BUSY_SHARE * self._interval
        self._checks += 1
        if self._folder is not None:
            state = [os.getpid(), self._replica, working, self._checks]
            unfinished = self._folder / f"rank-{self._rank}.alive-unfinished"
            alive = self._folder / f"rank-{self._rank}.alive"
            try:
                unfinished.write_text(json.dumps(state))
                unfinished.replace(alive)
            except OSError:  # the disk is full: an old sign would look like silence
                with contextlib.suppress(OSError):
                    alive.unlink()
        return working

    def _look_at_others(self, elapsed: float) -> bool:
        """Note what the other ranks of this host have written; whether one of this replica is computing."""
        if self._folder is None:
            return False
        found: dict[int, _Seen] = {}
        computing = False
        for path in self._folder.glob("rank-*.alive"):
            rank = int(path.stem.removeprefix("rank-"))
            if rank == self._rank:
                continue
            text = path.read_text()
            pid, replica, working, _ = json.loads(text)
            before = self._seen.get(rank)
            same = before is not None and before.state == text
            found[rank] = _Seen(pid, replica, text, before.seconds + elapsed if before and same else 0.0)
            computing |= working and not same and replica == self._replica
        self._seen = found
        return computing

    def _silent_rank(self, stuck: float) -> int | None:
        """A rank without a sign of life, the longest silent first; None if there is none.

        Where this rank has been stuck for too long, a rank of its replica that fell silent meanwhile is why.
        """
        silent = {
            rank: seen.seconds
            for rank, seen in self._seen.items()
            if seen.seconds >= self._timeout
            or (stuck >= self._timeout and seen.replica == self._replica and seen.seconds > self._timeout / 2)
        }
        return max(silent, key=lambda rank: silent[rank], default=None)

    def _error(self, rank: int) -> RankError:
        pid = os.getpid() if rank == self._rank else self._seen[rank].pid
        what = f"rank {rank} on {socket.gethostname()} (process {pid}) has made no step for {self._timeout:g} s"
        stack = self._stack_of(rank, pid)
        text = f"{what}:\n    " + "\n    ".join(stack) if stack else f"{what}, and does not answer"
        return RankError(text, code="stuck_rank", hint=f"{self._kept()} --stall-timeout SECONDS waits longer.")

    def _stack_of(self, rank: int, pid: int) -> list[str]:
        """Where a rank's main thread is, the innermost call first; empty if it does not answer."""
        own = rank == self._rank
        descriptor = self._stacks
        try:
            if not own:
                assert self._folder is not None
                descriptor = os.open(self._folder / f"rank-{rank}.stack", os.O_RDONLY)
            os.kill(pid, _SHOW)
            time.sleep(_ANSWER_SECONDS)
            text = os.pread(descriptor, 1 << 16, 0).decode(errors="replace")
        except OSError:
            return []
        return text.splitlines()[: _FRAMES + 1]


def _open_new(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600)
