"""Starts a job's ranks on this host, and reports in one message how they ended. No torch here.

Each rank is a process in its own session, so that Ctrl-C reaches only this one; ``start`` answers it. The ranks find
each other through the environment variables that torchrun would set. torchrun itself is not used, since it imports
torch before it starts them, which takes as long again as their own import.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from neoxrun.errors import RankError, classify
from neoxrun.launch.job import Failure, Job, failure_of, read_failures

_GRACE_SECONDS = 5
_SETTLING_SECONDS = 0.1  # a rank that only lost contact may end a moment before the one that is the cause
_LAST_LINES = 15
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_Ranks = dict[int, subprocess.Popen[bytes]]  # by their numbers


class Death(NamedTuple):
    """How the process of a rank ended; the exit code is negative for a signal."""

    process: int
    exit_code: int


class _Signalled(BaseException):
    """This process was asked to end. Not an ``Exception``: nothing but ``main`` is to catch it."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(job: Job, folder: Path) -> int:
    """Run a job, whose folder is removed at the end, and return its exit code.

    Raises:
        RankError: a rank cannot be started.
    """
    ranks: _Ranks = {}
    try:
        _raise_signals()
        _start_ranks(job, folder, ranks)
        died = _wait(ranks)
        _end(ranks, signal.SIGTERM)
        if not died:
            return 0
        failure = _cause(died, read_failures(folder), folder, job)
        if failure.text:
            print(failure.text, file=sys.stderr)
        return failure.exit_code
    except _Signalled as asked:
        _end(ranks, asked.number)
        return 128 + asked.number
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _raise_signals() -> None:
    """Raise ``_Signalled`` for the first signal that asks this process to end; those that nohup ignores stay so."""
    handled = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]

    def answer(number: int, frame: object) -> NoReturn:
        for other in handled:
            signal.signal(other, signal.SIG_IGN)
        raise _Signalled(number)

    for number in handled:
        signal.signal(number, answer)


def _start_ranks(job: Job, folder: Path, ranks: _Ranks) -> None:
    """Start the ranks of this host, and put them into ``ranks`` by their numbers."""
    plan = job.plan
    world = plan.tp * plan.pp * plan.replicas
    local_world = world // plan.nnodes
    host, _, port = (job.rendezvous or "").rpartition(":") if plan.nnodes > 1 else ("127.0.0.1", "", _free_port())
    shared = {
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(local_world),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
    command = [sys.executable, "-m", "neoxrun.launch.start", "rank", str(folder), str(os.getpid())]
    for local_rank in range(local_world):
        rank = job.node_rank * local_world + local_rank
        try:
            # Rank 0 has stdin and stdout, and the first rank of each host stderr. The output of the others goes to a
            # file, whose last lines are shown if the rank dies.
            with _log_of(rank, folder).open("wb") as log:
                ranks[rank] = subprocess.Popen(
                    command,
                    env=shared | {"RANK": str(rank), "LOCAL_RANK": str(local_rank)},
                    stdin=subprocess.DEVNULL if rank else None,
                    stdout=log if rank else None,
                    stderr=log if local_rank and job.verbosity < 1 else None,
                    start_new_session=True,
                )
        except OSError as error:
            _end(ranks, signal.SIGTERM)
            cause = classify(error)
            if cause.code == "out_of_memory":
                raise
            raise RankError(f"rank {rank} could not be started: {error}", code="failed_start") from error


def _log_of(rank: int, folder: Path) -> Path:
    return folder / f"rank-{rank}.log"


def _free_port() -> str:
    """A port of this host that no program uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _wait(ranks: _Ranks) -> dict[int, Death]:
    """Wait until all ranks have ended, or one has failed; return those that failed, by their numbers."""
    while True:
        codes = [process.poll() for process in ranks.values()]
        if any(codes):
            time.sleep(_SETTLING_SECONDS)
            return {rank: Death(one.pid, code) for rank, one in ranks.items() if (code := one.poll())}
        if None not in codes:
            return {}
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # leaves the rank for its poll


def _end(ranks: _Ranks, number: int) -> None:
    """End the ranks that still run: by a signal, and a few seconds later by SIGKILL."""
    for process in ranks.values():
        process.send_signal(number)  # nothing happens if it has ended
    end = time.monotonic() + _GRACE_SECONDS
    for process in ranks.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0, end - time.monotonic()))
        process.kill()
        process.wait()


def _cause(died: Mapping[int, Death], left: Mapping[int, Failure], folder: Path, job: Job) -> Failure:
    """The failure that the others followed from.

    A failure that a rank reported itself comes first, unless the rank only noticed that another was gone; then a rank
    that a signal killed; then one that ended without a report.
    """
    spoke = [left[rank] for rank in sorted(left) if not left[rank].lost_contact]
    if spoke:
        return spoke[0]
    silent = {rank: death for rank, death in died.items() if rank not in left}
    killed = [rank for rank, death in silent.items() if death.exit_code < 0]
    for rank in [*killed, *silent]:
        return failure_of(_death(rank, silent[rank], folder, job.kept), rank, verbose=job.verbosity > 0)
    return left[min(left)]


def _death(rank: int, death: Death, folder: Path, hint: str) -> RankError:
    code = death.exit_code
    how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    text = f"rank {rank} on {socket.gethostname()} (process {death.process}) {how}"
    log = _log_of(rank, folder)
    if lines := log.read_text(errors="replace").splitlines()[-_LAST_LINES:] if log.exists() else []:
        text += "\n    " + "\n    ".join(lines)
    if code == -signal.SIGKILL:
        hint = f"The system kills processes when memory runs out: see `dmesg`. {hint}"
    return RankError(text, code="rank_died", hint=hint)


def _signal_name(number: int) -> str:
    """Real-time signals have no name of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
