"""Starts a job's ranks on this host through torchrun, and reports in one message how they ended.

torchrun starts one process per rank, each in its own session, notices within a tenth of a second when one dies, and
ends the others. The agent turns the first cause of a failure into the message and the exit code. ``start``
answers Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import get_args_parser
from torch.distributed.run import run as torchrun

from neoxrun.errors import RankError, classify
from neoxrun.launch.job import Failure, Job, failure_of, read_failures
from neoxrun.terminal.log import details_of, waiting

_GRACE_SECONDS = 5
_LAST_LINES = 15


def main(job: Job, folder: Path) -> int:
    """Run a job, whose folder is removed at the end, and return its exit code."""
    if job.verbosity < 1:
        _silence_torchrun()
    logs = folder / "logs"
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(_GRACE_SECONDS)
    os.environ["TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"] = "[rank ${rank}] "
    arguments = get_args_parser().parse_args(_torchrun_arguments(job, folder, logs))
    try:
        with waiting(
            f"waiting for all {job.plan.nnodes} hosts to meet at {job.rendezvous}",
            lambda text: print(text, file=sys.stderr),
            still=lambda: job.plan.nnodes > 1 and not any(logs.glob("*")),  # torchrun writes there as ranks start
        ):
            torchrun(arguments)  # type: ignore[no-untyped-call]
        return 0
    except ChildFailedError as error:
        failure = _cause(error.failures, read_failures(folder), logs, job)
        _report(failure, job, folder)
        return failure.exit_code
    except SignalException as error:
        return 128 + int(error.sigval)
    except Exception as error:
        details_of(error)
        cause = classify(error)
        if cause.code != "out_of_memory":  # torchrun raises exceptions of many kinds when the hosts cannot meet
            cause = _could_not_start(job, error)
        _report(failure_of(cause, None, verbose=job.verbosity > 0), job, folder)
        return cause.exit_code
    finally:
        if not job.owned:
            shutil.rmtree(folder, ignore_errors=True)


def _report(failure: Failure, job: Job, folder: Path) -> None:
    """Tell the user why the job has failed, or the process that owns it."""
    if job.owned:
        failure.save_as_cause(folder)
    elif failure.text:
        print(failure.text, file=sys.stderr)


def _torchrun_arguments(job: Job, folder: Path, logs: Path) -> list[str]:
    plan = job.plan
    local = plan.tp * plan.pp * plan.replicas // plan.nnodes
    # Rank 0 keeps stdout and stderr. The output of the others goes to files; their last lines are shown if a rank dies,
    # and all lines with -v, and of stderr as JSON.
    others = [rank for rank in range(local) if job.node_rank or rank]
    arguments = [
        f"--nproc-per-node={local}",
        f"--log-dir={logs}",
        "--signals-to-handle=SIGHUP,SIGQUIT",
    ]
    if others:
        arguments += ["--redirects", ",".join(f"{rank}:3" for rank in others)]
        if job.verbosity > 0 or job.as_json:
            arguments += ["--tee", ",".join(f"{rank}:2" for rank in others)]
    if plan.nnodes == 1:
        arguments += ["--standalone", "--local-addr=127.0.0.1"]
    else:
        host, _, port = (job.rendezvous or "").rpartition(":")
        arguments += [
            f"--nnodes={plan.nnodes}",
            f"--node-rank={job.node_rank}",
            f"--master-addr={host}",
            f"--master-port={port}",
        ]
    return [*arguments, "-m", "neoxrun.launch.start", "rank", str(folder), str(os.getpid())]


def _silence_torchrun() -> None:
    """Drop torchrun's messages about itself, and about the end of a rank, which ``_cause`` explains better."""
    logging.disable(logging.WARNING)
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").addFilter(
        lambda record: not str(record.msg).startswith("failed (exitcode")
    )


def _cause(died: dict[int, ProcessFailure], left: dict[int, Failure], logs: Path, job: Job) -> Failure:
    """The failure that the others followed from.

    A failure that a rank reported itself comes first, unless the rank only noticed that another was gone; then a rank
    that a signal killed (torchrun ends the rest with SIGTERM); then one that ended without a report.
    """
    spoke = [left[rank] for rank in sorted(left) if not left[rank].lost_contact]
    if spoke:
        return spoke[0]
    silent = {rank: failure for rank, failure in died.items() if rank not in left}
    killed = [rank for rank, failure in silent.items() if failure.exitcode not in (0, 1, -signal.SIGTERM)]
    for rank in [*killed, *silent]:
        return failure_of(_death(rank, silent[rank], logs, job.continuing()), rank, verbose=job.verbosity > 0)
    return left[min(left)]


def _death(rank: int, failure: ProcessFailure, logs: Path, hint: str) -> RankError:
    code = failure.exitcode
    how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    text = f"rank {rank} on {socket.gethostname()} (process {failure.pid}) {how}"
    lines: list[str] = []
    for path in logs.glob(f"**/{failure.local_rank}/stderr.log"):
        lines = path.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    if lines:
        text += "\n    " + "\n    ".join(lines)
    if code == -signal.SIGKILL:
        hint = f"The system kills processes when memory runs out: see `dmesg`. {hint}"
    return RankError(text, code="rank_died", hint=hint)


def _could_not_start(job: Job, error: Exception) -> RankError:
    if job.plan.nnodes == 1:
        return RankError(f"torchrun could not start the ranks: {error}", code="failed_start")
    return RankError(
        f"the {job.plan.nnodes} hosts did not meet at {job.rendezvous}: {error}",
        code="no_meeting",
        hint="Start the same command on every host, with its own --node-rank; --rdzv-endpoint names host 0.",
    )


def _signal_name(number: int) -> str:
    """Real-time signals have no name of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
