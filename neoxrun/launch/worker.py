"""The program of every rank: join the others, load the model, do the command's work, and end with an exit code."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from neoxrun.benchmark.run import run_benchmark
from neoxrun.engine.allocator import keep_freed_memory
from neoxrun.engine.pulse import Pulse
from neoxrun.engine.session import Session, device_of, open_session
from neoxrun.errors import Interrupted, RankError, UsageError, classify
from neoxrun.generation.records import standard_output
from neoxrun.generation.run import run_generation
from neoxrun.launch.job import Failure, Job, announce_rank, failure_of
from neoxrun.launch.termination import Termination
from neoxrun.launch.watch import Watch
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.background import both
from neoxrun.parallel.mesh import Mesh
from neoxrun.scoring.run import run_scoring
from neoxrun.serving.service import run_service
from neoxrun.terminal import log

Work = Callable[[Session, Any, IO[str], bool, Callable[[], None]], None]
Watcher = Callable[[Mesh, Pulse], AbstractContextManager[None]]


def main(job: Job, folder: Path, *, supervised: bool, termination: Termination) -> int:
    """Run one rank of a job and return its exit code.

    Args:
        job: the work.
        folder: the job's folder, see ``job``.
        supervised: started by ``agent``, which reports failures; otherwise this process does, and owns the folder.
        termination: whether SIGTERM has come.
    """
    rank = int(os.environ.get("RANK", "0"))
    stdout = standard_output(job.verbosity > 0)
    announce: Callable[[], None] = lambda: None  # noqa: E731
    if supervised:
        announce = partial(announce_rank, folder, rank)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if rank:
        # The ranks that lead answer Ctrl-C; the others end with them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch = partial(_watch, job, folder if supervised else None)
    failure = _attempt(job, folder, rank, stdout, announce, termination, watch)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all that is left is to end
    if failure is None:
        return 0
    if supervised:
        failure.save(folder)
    elif failure.text and (rank == 0 or not failure.shared):
        print(_told(failure, rank, job), file=sys.stderr)
    return failure.exit_code


def _attempt(
    job: Job,
    folder: Path,
    rank: int,
    stdout: IO[str],
    announce: Callable[[], None],
    termination: Termination,
    watch: Watcher,
) -> Failure | None:
    """Do the work; returns the failure, or None."""
    try:
        _work(job, folder, rank, stdout, announce, watch)
    except (Exception, KeyboardInterrupt) as error:
        log.details_of(error)
        return failure_of(termination.rename(classify(error, rank)), rank, verbose=job.verbosity > 0)
    return None


def _work(
    job: Job,
    folder: Path,
    rank: int,
    stdout: IO[str],
    announce: Callable[[], None],
    watch: Watcher,
) -> None:
    plan = job.plan
    device = device_of(plan.device_kind, plan.gpus, int(os.environ.get("LOCAL_RANK", "0")))
    mesh = meshes.connect_ranks(plan.tp, plan.pp, plan.replicas, device)
    _agree(job)
    show_progress = rank == 0 and job.verbosity >= 0
    load = partial(_open, job, mesh, show_progress)
    if job.command == "finetune":
        from neoxrun.training.run import run_finetuning

        try:
            run_finetuning(job.settings, mesh, plan, job.options, stdout, show_progress, announce, partial(watch, mesh))
        except KeyboardInterrupt:  # the second Ctrl-C
            raise Interrupted("interrupted", hint=job.continuing()) from None
        meshes.disconnect_ranks()
        return
    session, work, options = _begin(job, rank, folder, load)
    if not job.owned:  # whoever owns it says so itself
        for warning in session.warnings:
            log.log.warning(warning)
    if device.type == "cpu":
        keep_freed_memory()
    with watch(mesh, session.replica.pulse):
        work(session, options, stdout, show_progress, announce)
    with contextlib.suppress(OSError):  # every record has been written through to the system
        stdout.close()
    session.close()


def _watch(job: Job, folder: Path | None, mesh: Mesh, pulse: Pulse) -> AbstractContextManager[None]:
    """Ends this rank with an error if it or another rank of this host is stuck; ``folder`` is where they meet."""
    rank = mesh.rank
    if job.stall_timeout is None:
        return contextlib.nullcontext()

    def report(error: RankError) -> None:
        failure = failure_of(error, rank, verbose=job.verbosity > 0)
        if folder is None:
            os.write(2, f"{_told(failure, rank, job)}\n".encode())
        else:
            failure.save(folder)

    return Watch(
        pulse,
        rank,
        replica=0 if job.command == "finetune" else mesh.replica,  # in training, replicas wait for each other
        timeout=job.stall_timeout,
        folder=folder,
        on_cpu=mesh.device.type == "cpu",
        kept=job.continuing,
        report=report,
    )


def _told(failure: Failure, rank: int, job: Job) -> str:
    return failure.text if rank == 0 or job.as_json else f"[rank {rank}] {failure.text}"


def _begin(job: Job, rank: int, folder: Path, load: Callable[[], Session]) -> tuple[Session, Work, Any]:
    """The loaded model, a command's work, and its options."""
    if job.command == "serve":
        return load(), partial(run_service, folder), job.options
    if job.command == "bench":
        return load(), run_benchmark, job.options
    if job.command == "generate":
        return load(), run_generation, job.options
    if job.command == "score":
        return load(), run_scoring, None if rank else job.options
    if rank:
        from neoxrun.evaluation import replicas

        return load(), replicas.take_part, None
    # lm-eval takes seconds to import, and to build its requests. Loading is mostly copies, during which other threads
    # can run.
    session, (run, ready) = both(load, partial(_prepare_evaluation, job.options))
    return session, run, ready


def _prepare_evaluation(options: Any) -> tuple[Work, Any]:
    from neoxrun.evaluation import run as evaluation

    return evaluation.run_evaluation, evaluation.prepare_run(options)


def _open(job: Job, mesh: Mesh, show_progress: bool) -> Session:
    """Load this rank's part of the model, in any thread."""
    if mesh.device.type == "cuda":
        torch.cuda.set_device(mesh.device)  # each thread has a current device
    return open_session(
        job.settings,
        mesh,
        job.plan.precisions,
        random_weights=job.random_weights,
        show_progress=show_progress,
        max_context=job.plan.max_context,
        eager=job.eager,
    )


def _agree(job: Job) -> None:
    """Check that ranks that were started separately, on several hosts, have the same work.

    Raises:
        UsageError: they do not.
    """
    plan = job.plan
    settings = job.settings
    mine = (
        (job.command, job.random_weights, job.eager, plan.tp, plan.pp, plan.replicas, plan.precisions),
        (settings.model, settings.iteration, settings.seed, plan.max_context),
        job.options if job.command == "finetune" else None,  # every rank trains by them
    )
    for rank, other in enumerate(meshes.gather_from_all(mine)):
        if other != mine:
            differing = UsageError(
                f"rank {rank} was started with another command, configuration or split than this one",
                code="different_commands",
                hint="Give every host the same command line; --tp, --pp, --replicas and --dtype fix the split.",
            )
            differing.shared = True
            raise differing
