"""Ranks that another launcher has started: what torchrun and Slurm's srun leave in the environment. No torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from neoxrun.errors import UsageError


@dataclass(frozen=True)
class World:
    """The ranks that another launcher has started, as this process sees them.

    Attributes:
        rank: this process's number among all ranks.
        size: number of all ranks.
        local_rank: this process's number among the ranks of this host.
        local_size: number of ranks on this host.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int


def existing_world(environment: Mapping[str, str] = os.environ) -> World | None:
    """The world that torchrun (RANK, WORLD_SIZE) or Slurm's srun (SLURM_PROCID) has made; None if neither has.

    A batch script under Slurm, outside srun, has SLURM_PROCID too, but is a single process and not a world.

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
                "where a rank needs a whole number",
                code="bad_environment",
                hint="torchrun and srun set it. To have neoxrun start the ranks, unset RANK and WORLD_SIZE.",
            )
        return int(text)

    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank, size = number("RANK"), number("WORLD_SIZE")
        world = World(rank, size, number("LOCAL_RANK", rank), number("LOCAL_WORLD_SIZE", size))
        if not (rank < size and world.local_rank < world.local_size <= size):
            raise UsageError(
                f"the environment says rank {rank} of {size}, on this host {world.local_rank} of {world.local_size}: "
                "there is no such rank",
                code="bad_environment",
                hint="Correct RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, or unset them to have neoxrun start "
                "the ranks.",
            )
        return world
    if "SLURM_PROCID" in environment and number("SLURM_STEP_NUM_TASKS", 1) > 1:
        size, nodes = number("SLURM_STEP_NUM_TASKS"), number("SLURM_STEP_NUM_NODES", 1)
        return World(number("SLURM_PROCID"), size, number("SLURM_LOCALID"), -(-size // nodes))
    return None


def rendezvous_of(world: World) -> dict[str, str]:
    """torchrun's environment variables for a world that Slurm made; torchrun itself has set them already.

    Raises:
        UsageError: MASTER_PORT is not a port, or Slurm's list of hosts cannot be read.
    """
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
            code="bad_environment",
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
            code="bad_environment",
            hint="Set MASTER_ADDR and MASTER_PORT to a host and a free port of the first node.",
        )
    return hosts[0]
