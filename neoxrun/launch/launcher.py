"""From a job to running ranks. No torch here.

- If torchrun or Slurm has already started the ranks, this process becomes one of them.
- A single rank needs no torchrun: this process becomes the worker.
- Otherwise this process becomes the ``agent``, which starts the ranks through torchrun and watches them.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import NoReturn

from neoxrun.errors import UsageError
from neoxrun.launch.job import Job
from neoxrun.launch.start import hold_interrupts
from neoxrun.launch.world import existing_world, rendezvous_of
from neoxrun.planning.devices import cpu_device
from neoxrun.terminal.log import log

_RANK_NAMES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}


def run_job(job: Job) -> NoReturn:
    """Start the job's ranks. This process is replaced and does not return.

    Raises:
        UsageError: torchrun or Slurm has started a different number of ranks than the plan has.
        DataError: temporary files cannot be written.
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
    if job.verbosity < 1:
        # c10d warns of host names that it cannot look up, and of other things that do not matter here.
        environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    folder = job.save()
    sys.stdout.flush()
    sys.stderr.flush()
    hold_interrupts()
    try:
        os.execve(sys.executable, [sys.executable, "-m", "neoxrun.launch.start", role, str(folder)], environment)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
