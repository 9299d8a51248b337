"""Ranks that torchrun or Slurm's srun has started: which environments are a world, and what its ranks are told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neoxrun.errors import UsageError
from neoxrun.launch.world import World, existing_world, is_port, rendezvous_of

Environment = dict[str, str]

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_JOB_ID": "123456",
}

WORLDS: dict[str, tuple[Environment, World | None]] = {
    "nothing": ({}, None),
    "torchrun": (TORCHRUN, World(rank=5, size=8, local_rank=1, local_size=4)),
    "torchrun with one rank": (
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        World(0, 1, 0, 1),
    ),
    "another launcher, which counts no local ranks": ({"RANK": "1", "WORLD_SIZE": "2"}, World(1, 2, 1, 2)),
    "half of torchrun's": ({"RANK": "0"}, None),
    "the other half": ({"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, None),
    "srun": (SRUN, World(rank=5, size=8, local_rank=1, local_size=4)),
    "srun on one host": (
        {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "3"},
        World(0, 3, 0, 3),
    ),
    "srun with hosts that are not full": (
        {"SLURM_PROCID": "4", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_NUM_NODES": "2"},
        World(rank=4, size=5, local_rank=0, local_size=3),
    ),
    "srun with one task": (SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
    "a batch script of Slurm, outside srun": ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}, None),
    "torchrun under srun": (SRUN | {"RANK": "0", "WORLD_SIZE": "2"}, World(0, 2, 0, 2)),
}


@pytest.mark.parametrize("case", WORLDS)
def test_existing_world(case: str) -> None:
    environment, world = WORLDS[case]
    assert existing_world(environment) == world


REFUSED: dict[str, tuple[Environment, str]] = {
    "not a number": (TORCHRUN | {"RANK": "zero"}, "RANK"),
    "negative": (TORCHRUN | {"RANK": "-1"}, "RANK"),
    "empty": (TORCHRUN | {"LOCAL_RANK": ""}, "LOCAL_RANK"),
    "size is not a number": (TORCHRUN | {"WORLD_SIZE": "8 "}, "WORLD_SIZE"),
    "local size is not a number": (TORCHRUN | {"LOCAL_WORLD_SIZE": "4.0"}, "LOCAL_WORLD_SIZE"),
    "rank outside the world": (TORCHRUN | {"RANK": "8"}, "rank 8 of 8"),
    "local rank outside the host": (TORCHRUN | {"LOCAL_RANK": "4"}, "4 of 4"),
    "host larger than the world": (TORCHRUN | {"LOCAL_WORLD_SIZE": "9"}, "1 of 9"),
    "empty world": (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "0"}, "rank 0 of 0"),
    "srun without a local rank": ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, "SLURM_LOCALID"),
    "srun with a rank that is no number": (SRUN | {"SLURM_PROCID": "x"}, "SLURM_PROCID"),
    "srun with hosts that are no number": (SRUN | {"SLURM_STEP_NUM_NODES": "n[1-2]"}, "SLURM_STEP_NUM_NODES"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_environments_that_are_no_world(case: str) -> None:
    environment, names = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        existing_world(environment)
    assert names in caught.value.message
    assert caught.value.hint


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The process's environment, without what Slurm or torchrun may have put there."""
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "MASTER_")):
            monkeypatch.delenv(name)
    return monkeypatch


def test_ranks_of_srun_are_told_what_torchrun_would_tell_them(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SLURM_STEP_NODELIST", "gpu7,gpu9")
    environment.setenv("SLURM_JOB_ID", "123456")
    told = rendezvous_of(World(rank=5, size=8, local_rank=1, local_size=4))
    assert told == TORCHRUN | {"MASTER_ADDR": "gpu7", "MASTER_PORT": "23456"}
    assert existing_world(told) == World(rank=5, size=8, local_rank=1, local_size=4)


def test_what_the_user_has_set_is_kept(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SLURM_STEP_NODELIST", "gpu7,gpu9")
    environment.setenv("MASTER_ADDR", "head")
    environment.setenv("MASTER_PORT", "4711")
    told = rendezvous_of(World(0, 2, 0, 1))
    assert not {"MASTER_ADDR", "MASTER_PORT"} & told.keys()


@pytest.mark.parametrize(
    ("job", "port"), [(None, 20000), ("0", 20000), ("9999", 29999), ("10000", 20000), ("71828182", 28182)]
)
def test_jobs_that_share_a_host_have_ports_of_their_own(
    environment: pytest.MonkeyPatch, job: str | None, port: int
) -> None:
    environment.setenv("SLURM_STEP_NODELIST", "gpu7")
    if job is not None:
        environment.setenv("SLURM_JOB_ID", job)
    assert rendezvous_of(World(0, 2, 0, 2))["MASTER_PORT"] == str(port)


@pytest.mark.parametrize("port", ["high", "0", "65536", "-1", "1e3", ""])
def test_a_port_that_is_none(environment: pytest.MonkeyPatch, port: str) -> None:
    environment.setenv("MASTER_PORT", port)
    with pytest.raises(UsageError) as caught:
        rendezvous_of(World(0, 2, 0, 2))
    assert f"MASTER_PORT is {port!r}" in caught.value.message


# What a stand-in for Slurm's scontrol prints, or None where it fails or is not there.
NODE_LISTS: dict[str, tuple[str | None, str | None, str | None]] = {
    "not set": (None, None, "127.0.0.1"),
    "one host": ("gpu7", None, "gpu7"),
    "several hosts": ("gpu7,gpu9,big1", None, "gpu7"),
    "a range": ("gpu[07-09,12],big1", "gpu07\ngpu08\ngpu09\ngpu12\nbig1", "gpu07"),
    "a range after a plain name": ("big1,gpu[07-09]", "big1\ngpu07\ngpu08\ngpu09", "big1"),
    "a range without scontrol": ("gpu[07-09]", None, None),
    "a range that scontrol does not know": ("gpu[07-", "", None),
}


@pytest.mark.parametrize("case", NODE_LISTS)
def test_the_first_host_of_a_node_list(case: str, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nodes, printed, first = NODE_LISTS[case]
    environment.setenv("PATH", str(tmp_path))
    if nodes is not None:
        environment.setenv("SLURM_STEP_NODELIST", nodes)
    if printed is not None:
        scontrol = tmp_path / "scontrol"
        asked = f'[ "$1 $2 $3" = "show hostnames {nodes}" ] || exit 1'
        scontrol.write_text(f"#!/bin/sh\n{asked}\nprintf '%s' '{printed}'\n")
        scontrol.chmod(0o755)
    if first is not None:
        assert rendezvous_of(World(0, 2, 0, 1))["MASTER_ADDR"] == first
        return
    with pytest.raises(UsageError) as caught:
        rendezvous_of(World(0, 2, 0, 1))
    assert repr(nodes) in caught.value.message
    assert "MASTER_ADDR" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("1", True), ("29500", True), ("65535", True), ("65536", False), ("0", False), ("000001", False), ("²", False)],
)
def test_is_port(text: str, is_one: bool) -> None:
    assert is_port(text) == is_one
