"""From a job to running ranks. No torch here.

- If torchrun or Slurm has already started the ranks, this process becomes one of them.
- A single rank needs no torchrun: this process becomes the worker.
- Otherwise this process becomes the ``agent``, which starts the ranks through torchrun and watches them.

A command that runs several jobs, one after the other, runs each in a child process instead.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import Final, NoReturn

from neoxrun.errors import RankError, UsageError
from neoxrun.launch.job import Job
from neoxrun.launch.termination import hold_interrupts, release_interrupts
from neoxrun.launch.world import existing_world, rendezvous_of
from neoxrun.planning.devices import cpu_device
from neoxrun.terminal.log import finish_line, log

PROGRAM: Final = (sys.executable, "-m", "neoxrun.launch.start")
"""Starts ``start``; a role and the job's folder follow."""

_RANK_NAMES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}


def run_job(job: Job) -> NoReturn:
    """Start the job's ranks. This process is replaced and does not return.

    Raises:
        UsageError: torchrun or Slurm has started a different number of ranks than the plan has.
        DataError: temporary files cannot be written.
    """
    role, environment = role_and_environment(job)
    folder = job.save()
    sys.stdout.flush()
    finish_line()
    hold_interrupts()
    try:
        os.execve(sys.executable, [*PROGRAM, role, str(folder)], environment)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def run_child(job: Job) -> int:
    """Run a job in a child process, and return its exit code when it has ended.

    What the job writes to stdout is dropped, and the child has reported its own failure. It is in a process group of
    its own, so that a Ctrl-C at the terminal reaches it once, through this process; it does not outlive this process.
    Only the main thread can call this.

    Raises:
        KeyboardInterrupt: Ctrl-C came too late for the child, which has done its work.
        RankError: the child was killed before it could report anything.
        DataError: temporary files cannot be written.
    """
    role, environment = role_and_environment(job)
    folder, lock = job.save_and_lock()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not an exception, and not only a blocked signal: other threads, such as those of a download, take the signal that
    # this one blocks, and Python would raise KeyboardInterrupt here, between the start of the child and its name.
    children: list[subprocess.Popen[bytes]] = []
    interrupted = False

    def pass_on(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        for child in children:
            child.send_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, pass_on)
    hold_interrupts()  # the child inherits this, and answers as soon as it can
    try:
        child = subprocess.Popen(
            [*PROGRAM, role, str(folder), str(os.getpid())],
            env=environment,
            stdout=subprocess.DEVNULL,
            process_group=0,
            pass_fds=() if lock is None else (lock,),
        )
        children.append(child)
        if interrupted:  # before the child had a name
            child.send_signal(signal.SIGINT)
        release_interrupts()
        code = child.wait()
    finally:
        release_interrupts()
        signal.signal(signal.SIGINT, before)
        if lock is not None:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
    if interrupted and code == 0:
        raise KeyboardInterrupt
    if code < 0:
        raise RankError(
            f"the process of the model (process {child.pid}) was killed by signal {-code}",
            code="rank_died",
            hint=f"The system kills processes when memory runs out: see `dmesg`. {job.continuing()}",
        )
    return code


def role_and_environment(job: Job) -> tuple[str, dict[str, str]]:
    """What a process becomes (a role of ``start``), and with which environment.

    Raises:
        UsageError: torchrun or Slurm has started a different number of ranks than the plan has.
    """
    plan = job.plan
    ranks = plan.tp * plan.pp * plan.replicas
    world = existing_world()
    # The plan numbers GPUs as NVML does; CUDA must number them in the same order.
    environment = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if world is not None:
        if world.size != ranks:
            raise UsageError(
                f"{world.size} ranks are running, but the plan needs tp {plan.tp} x pp {plan.pp} x "
                f"replicas {plan.replicas} = {ranks}",
                code="wrong_number_of_ranks",
                hint=f"Start {ranks} processes, or give --tp, --pp and --replicas with a product of {world.size}.",
            )
        environment |= rendezvous_of(world)
        role = "worker"
    else:
        for name in sorted(_RANK_NAMES & environment.keys()):
            if name in ("RANK", "WORLD_SIZE"):
                log.warning(f"{name}={environment[name]} is ignored: a rank has both RANK and WORLD_SIZE")
            del environment[name]
        role = "worker" if ranks == 1 else "agent"
    if plan.device_kind == "cpu":
        # The ranks of a host share its cores, and a container may have fewer of them than torch would see.
        cores = cpu_device().cores // (ranks // plan.nnodes)
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores)))
        if "OMP_WAIT_POLICY" not in environment:
            # How often a thread looks for its next piece of work before it sleeps. GNU's default is milliseconds,
            # which takes the cores away from the other threads where they are not free.
            environment.setdefault("GOMP_SPINCOUNT", "3000")
    if job.verbosity < 1:
        # c10d warns of host names that it cannot look up, and of other things that do not matter here.
        environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return role, environment
