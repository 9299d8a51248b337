"""Ranks that something else starts (torchrun, Slurm), and several hosts: the same answers everywhere."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.command import NEOXRUN, Result, Running, answers_of, neoxrun, running
from support.paths import DEMO
from support.snapshots import Snapshot

WORK = (
    "generate",
    "demo",
    "-i",
    "-",
    "--temperature",
    "0",
    "--maximum-tokens",
    "6",
    "--dtype",
    "fp32",
    "-q",
)
PROMPTS = "".join(f"def function_{number}(value):\n" for number in range(4))
TORCHRUN = [str(NEOXRUN.parent / "torchrun"), "--nproc-per-node", "2", "-m", "neoxrun"]


@pytest.fixture(scope="module")
def alone() -> list[tuple[Any, ...]]:
    """The answers of one rank."""
    return answers_of(neoxrun(*WORK, "--tp", "1", stdin=PROMPTS).check_success().records)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def both(first: Running, second: Running) -> tuple[Result, Result]:
    """How two processes of one run end; the first has the prompts."""
    try:
        results = first.finish(PROMPTS, timeout=90), second.finish(timeout=15)
        first.check_all_gone()
        second.check_all_gone()
        return results
    finally:
        first.end()
        second.end()


def test_torchrun(alone: list[tuple[Any, ...]]) -> None:
    """The existing environment is used as it is."""
    result = neoxrun(*WORK, "--tp", "2", command=TORCHRUN, stdin=PROMPTS)
    assert result.code == 0, result.err
    assert answers_of(result.records) == alone


def ranks(*arguments: object, of_second: tuple[str, ...] = ()) -> tuple[Result, Result]:
    """Two ranks in torchrun's environment, without torchrun's own talk on stderr."""
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    work = (*WORK, "--tp", "2", *arguments)
    first = Running(*work, env=common | {"RANK": "0", "LOCAL_RANK": "0"}, stdin=subprocess.PIPE)
    second = Running(*work, *of_second, env=common | {"RANK": "1", "LOCAL_RANK": "1"})
    return both(first, second)


def test_error_of_all_ranks_is_said_once(tmp_path: Path, snapshot: Snapshot) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder)
    (folder / "global_step5000" / "layer_10-model_01-model_states.pt").write_bytes(b"nothing")
    first, second = ranks("--checkpoint", folder)
    snapshot(first.check_error(3, "layer_10-model_01-model_states.pt"))
    assert (second.code, second.out, second.err) == (3, "", "")


@pytest.mark.parametrize("other", [("--set", "rotary_emb_base=500"), ("--random-weights",)], ids=" ".join)
def test_ranks_of_different_commands(other: tuple[str, ...], snapshot: Snapshot) -> None:
    first, second = ranks(of_second=other)
    snapshot(first.check_error(2, "rank 1"))
    assert (second.code, second.err) == (2, "")


def test_ranks_with_different_checkpoints(tmp_path: Path, snapshot: Snapshot) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder)
    (folder / "global_step5000").rename(folder / "global_step6000")
    (folder / "latest").write_text("global_step6000")
    first, second = ranks(of_second=("--checkpoint", str(folder)))
    snapshot(first.check_error(3, "rank 1", "rank 0"))
    assert (second.code, second.err) == (3, "")


def test_resume_of_a_complete_file(tmp_path: Path) -> None:
    """Nothing is left to do, and both ranks end; a half-written line goes."""
    output = tmp_path / "out.jsonl"
    neoxrun(*WORK, "-o", output, "--tp", "1", stdin=PROMPTS).check_success()
    whole = output.read_bytes()
    output.write_bytes(whole + b'{"id": 3, "con')
    for result in ranks("-o", output, "--resume"):
        assert (result.code, result.err) == (0, "")
    assert output.read_bytes() == whole


def test_slurm(alone: list[tuple[Any, ...]]) -> None:
    def task(number: int) -> dict[str, str]:
        return {
            "SLURM_PROCID": str(number),
            "SLURM_LOCALID": str(number),
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_NUM_NODES": "1",
            "SLURM_STEP_NODELIST": "127.0.0.1",
            "MASTER_PORT": port,
        }

    port, work = str(free_port()), (*WORK, "--tp", "2")
    first, second = both(Running(*work, env=task(0), stdin=subprocess.PIPE), Running(*work, env=task(1)))
    first.check_success()
    second.check_success()
    assert answers_of(first.records) == alone
    assert second.out == ""


def host(number: int, endpoint: str, *split: str, command: list[str] | None = None) -> Running:
    """The launcher of one of two hosts."""
    where = ("--nnodes", "2", "--node-rank", number, "--rdzv-endpoint", endpoint)
    return Running(*WORK, *where, *split, command=command, stdin=subprocess.DEVNULL if number else subprocess.PIPE)


def check_hosts(first: Result, second: Result, alone: list[tuple[Any, ...]]) -> None:
    assert (first.code, first.err) == (0, "")
    assert (second.code, second.out, second.err) == (0, "", "")
    assert answers_of(first.records) == alone


def test_two_launchers_on_one_machine(alone: list[tuple[Any, ...]]) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    split = ("--tp", "1", "--replicas", "2")
    check_hosts(*both(host(0, endpoint, *split), host(1, endpoint, *split)), alone)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces joined by a cable, as two hosts are; their own name leads neither to the other."""
    names = [f"neoxrun-{os.getpid()}-{number}" for number in range(2)]

    def ip(*arguments: str) -> bool:
        return subprocess.run(["ip", *arguments], capture_output=True).returncode == 0

    try:
        ready = shutil.which("ip") is not None and all(ip("netns", "add", name) for name in names)
        ready = ready and ip(
            *("link", "add", "wire", "netns", names[0], "type", "veth"), *("peer", "name", "wire", "netns", names[1])
        )
        for number, name in enumerate(names):
            ready = ready and ip("-n", name, "addr", "add", f"10.213.7.{number + 1}/24", "dev", "wire")
            ready = ready and ip("-n", name, "link", "set", "wire", "up") and ip("-n", name, "link", "set", "lo", "up")
        if not ready:
            pytest.skip("network namespaces cannot be made here: that takes root's rights and iproute2")
        yield names
    finally:
        if shutil.which("ip"):
            for name in names:
                ip("netns", "del", name)


def test_two_hosts(hosts: list[str], alone: list[tuple[Any, ...]]) -> None:
    first, second = (
        host(number, "10.213.7.1:29500", "--pp", "2", "--tp", "1", command=["ip", "netns", "exec", name, str(NEOXRUN)])
        for number, name in enumerate(hosts)
    )
    check_hosts(*both(first, second), alone)


@pytest.mark.parametrize("number", [0, 1])
def test_waiting_for_the_other_host_is_said(number: int, snapshot: Snapshot) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    where = ("--nnodes", "2", "--node-rank", number, "--rdzv-endpoint", endpoint)
    with running("generate", "demo", "--prompt", "import os", "--tp", "2", "--dtype", "fp32", *where) as command:
        said = command.process.stderr.readline().decode()
        assert endpoint in said
        command.interrupt()
        result = command.finish(timeout=5).check_error(130)
        command.check_all_gone()
    snapshot(dataclasses.replace(result, err=said + result.err), progress=True)


def test_waiting_for_another_rank_is_said(snapshot: Snapshot) -> None:
    port = str(free_port())
    with running(*WORK, "--tp", "2", env={"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": port}) as command:
        said = command.process.stderr.readline().decode()
        assert f"127.0.0.1:{port}" in said
        command.process.kill()
        snapshot(dataclasses.replace(command.finish(), err=said), progress=True)


def test_what_is_left_of_other_ranks_is_ignored(alone: list[tuple[Any, ...]], snapshot: Snapshot) -> None:
    leftover = {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "0"}
    result = neoxrun(*WORK, "--tp", "1", env=leftover, stdin=PROMPTS).check_success()
    assert "WORLD_SIZE=2" in result.err
    snapshot(result, output=False)
    assert answers_of(result.records) == alone
