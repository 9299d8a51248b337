"""From a job to running ranks. No torch here.

- Ranks that torchrun or Slurm has already started are used as they are: this process becomes its rank.
- A lone rank needs no torchrun: this process becomes the worker.
- Otherwise this process becomes ``agent``, which starts the ranks through torchrun and watches them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from neoxrun.errors import UsageError
from neoxrun.launch.job import Job
from neoxrun.launch.start import hold_interrupts
from neoxrun.planning.devices import cpu_device
from neoxrun.terminal.log import log

_RANK_NAMES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}


@dataclass(frozen=True)
class World:
    """The ranks that something else has started, as this process sees them."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def existing_world(environment: Mapping[str, str] = os.environ) -> World | None:
    """The world that torchrun (RANK, WORLD_SIZE) or Slurm's srun (SLURM_PROCID) has made; None where there is none.

    A batch script under Slurm, outside srun, has SLURM_PROCID too but only one process: that is no world.

    Raises:
        UsageError: a variable that should hold a number does not.
    """

    def number(name: str, default: int | None = None) -> int:
        text = environment.get(name)
        if text is None and default is not None:
            return default
        if text is None or not text.isdecimal():
            raise UsageError(
                f"the environment variable {name} is {'not set' if text is None else repr(text)}, "
                "and ranks that have been started need its number",
                hint="torchrun and srun set it. Unset RANK and WORLD_SIZE to start the ranks from here.",
            )
        return int(text)

    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank, size = number("RANK"), number("WORLD_SIZE")
        world = World(rank, size, number("LOCAL_RANK", rank), number("LOCAL_WORLD_SIZE", size))
        if not (rank < size and world.local_rank < world.local_size <= size):
            raise UsageError(
                f"the environment says rank {rank} of {size}, on this host {world.local_rank} of {world.local_size}: "
                "there is no such rank",
                hint="See RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, or unset them to start the ranks from "
                "here.",
            )
        return world
    if "SLURM_PROCID" in environment and number("SLURM_STEP_NUM_TASKS", 1) > 1:
        size, nodes = number("SLURM_STEP_NUM_TASKS"), number("SLURM_STEP_NUM_NODES", 1)
        return World(number("SLURM_PROCID"), size, number("SLURM_LOCALID"), -(-size // nodes))
    return None


def run(job: Job) -> NoReturn:
    """Start the job's ranks. This process is replaced and does not return.

    Raises:
        UsageError: the world that exists has not the plan's number of ranks.
    """
    plan = job.plan
    ranks = plan.tp * plan.pp * plan.replicas
    world = existing_world()
    # The plan counts GPUs as NVML does; CUDA must count them alike.
    environment = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if world is not None:
        if world.size != ranks:
            raise UsageError(
                f"{world.size} ranks are running, but the plan needs tp {plan.tp} x pp {plan.pp} x "
                f"replicas {plan.replicas} = {ranks}",
                hint=f"Start {ranks} processes, or give --tp, --pp and --replicas with a product of {world.size}.",
            )
        environment |= _rendezvous_of(world)
        role = "worker"
    else:
        for name in sorted(_RANK_NAMES & environment.keys()):
            if name in ("RANK", "WORLD_SIZE"):
                log.warning(f"{name}={environment[name]} is ignored: a rank has RANK and WORLD_SIZE")
            del environment[name]
        role = "worker" if ranks == 1 else "agent"
    if plan.device_kind == "cpu":
        # The ranks of a host share its cores, and a container may have fewer of them than torch would see.
        cores = cpu_device().cores // (ranks // plan.nnodes)
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores)))
    if job.verbosity < 1:
        # c10d warns of host names that it cannot look up, among other things of no use here.
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


def _rendezvous_of(world: World) -> dict[str, str]:
    """torchrun's environment variables for a world that Slurm made; torchrun's own are there already."""
    env = os.environ
    names = {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.size),
        "LOCAL_RANK": str(world.local_rank),
        "LOCAL_WORLD_SIZE": str(world.local_size),
    }
    if "MASTER_ADDR" not in env:
        names["MASTER_ADDR"] = _first_host(env.get("SLURM_STEP_NODELIST", ""))
    port = env.get("MASTER_PORT")
    if port is not None and not is_port(port):
        raise UsageError(
            f"the environment variable MASTER_PORT is {port!r}, not the number of a port",
            hint="Set it to a free port of the first host, the same for all ranks.",
        )
    if port is None:
        # Outside the ephemeral range, and different for jobs that share a host.
        names["MASTER_PORT"] = str(20000 + int(env.get("SLURM_JOB_ID", "0")) % 10000)
    return names


def is_port(text: str) -> bool:
    """Whether ``text`` is the number of a port."""
    return text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 2**16


def _first_host(nodelist: str) -> str:
    """The first host of a Slurm node list such as ``gpu[07-09],big1``."""
    if "[" not in nodelist:
        return nodelist.split(",")[0] or "127.0.0.1"
    try:
        hosts = subprocess.run(
            ["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        hosts = []
    if not hosts:
        raise UsageError(
            f"Slurm's node list {nodelist!r} cannot be read with scontrol",
            hint="Set MASTER_ADDR and MASTER_PORT to a host and a free port of the first node.",
        )
    return hosts[0]
