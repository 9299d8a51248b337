"""A disk that is full, memory that runs out, a reader that leaves: through the command."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.command import NEOXRUN, neoxrun, records_of, running
from support.paths import DEMO
from support.snapshots import Snapshot

# Records of about ten kilobytes, one after the other.
LARGE = ["--dtype", "fp32", "--maximum-tokens", "20", "--logprobs", "20", "--temperature", "0", "--batch-size", "1"]

# The limits below are of address space, of which a CUDA build's libraries take gigabytes by themselves.
CPU_BUILD = pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is a CUDA build")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"def function_{number}(value):\n" for number in range(8)))
    return path


def at_most(limit: int, size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(limit, (size, size))


def test_full_device(prompts: Path, snapshot: Snapshot) -> None:
    result = neoxrun("generate", "demo", "-i", prompts, "-o", "/dev/full", "--tp", "1", *LARGE)
    snapshot(result.check_error(4, "/dev/full", "No space left on device", "-o"))
    assert "0 answers" not in result.err


def test_stdout_into_a_full_device(prompts: Path, snapshot: Snapshot) -> None:
    with Path("/dev/full").open("w") as full:
        result = neoxrun("generate", "demo", "-i", prompts, "-o", "-", "--tp", "1", *LARGE, stdout=full.fileno())
    snapshot(result.check_error(4, "standard output", "No space left on device"))


@pytest.mark.parametrize("command", [("plan", "20B", "--devices", "2x80GB"), ("inspect", DEMO), ("diff", DEMO, DEMO)])
def test_a_result_into_a_full_device(command: tuple[object, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        result = neoxrun(*command, stdout=full.fileno())
    result.check_error(4, "standard output cannot be written: No space left on device")


def test_disk_full_keeps_whole_records(prompts: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root's rights")
    try:
        result = neoxrun("generate", "demo", "-i", prompts, "-o", disk / "out", "--tp", "1", *LARGE)
        result.check_error(4, "No space left on device", "--resume")
        assert 0 < len(records_of(disk / "out")) < 8
    finally:
        subprocess.run(["umount", disk], check=True)


def test_file_size_limit_keeps_whole_records(prompts: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    output = tmp_path / "out"
    result = neoxrun(
        *("generate", "demo", "-i", prompts, "-o", output, "--tp", "2", *LARGE),
        preexec=at_most(resource.RLIMIT_FSIZE, 25_000),
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    snapshot(result.check_error(4, str(output), "File too large", "--resume"))
    assert 0 < len(records_of(output)) < 8


def test_reader_of_stdout_leaves(prompts: Path) -> None:
    """As with `| head -1`: the run ends with the exit code of every program that this happens to, and says nothing."""
    reader, writer = os.pipe()
    with running("generate", "demo", "-i", prompts, "-o", "-", "--tp", "2", *LARGE, stdout=writer) as command:
        os.close(writer)
        with os.fdopen(reader, "rb") as lines:
            assert lines.readline().endswith(b"}\n")
        result = command.finish()
        command.check_all_gone()
    assert result.code == 141
    assert "rror" not in result.err


@CPU_BUILD
def test_no_memory_for_the_weights(snapshot: Snapshot) -> None:
    result = neoxrun(
        *(
            "generate",
            "demo",
            "--random-weights",
            "--prompt",
            "x",
            "--tp",
            "1",
            "-q",
            "--device",
            "cpu",
            "--dtype",
            "fp32",
        ),
        *("--set", "num_layers=12", "--set", "hidden_size=2048", "--set", "num_attention_heads=16"),
        preexec=at_most(resource.RLIMIT_AS, 1088 * 2**20),
    )
    snapshot(result.check_error(5, "out of memory", "rank 0", "50 MB", "neoxrun plan"))


@CPU_BUILD
def test_no_memory_for_the_cache() -> None:
    result = neoxrun(
        *("generate", "demo", "--prompt", "x", "--tp", "2", "--device", "cpu", "--maximum-tokens", "800000"),
        *("--set", "seq_length=1000000", "--set", "max_position_embeddings=1000000"),
        preexec=at_most(resource.RLIMIT_AS, 4 * 1024**3),
    )
    result.check_error(5, "out of memory on rank")


@CPU_BUILD
def test_no_memory_for_the_libraries() -> None:
    result = neoxrun(
        *("generate", "demo", "--prompt", "x", "--tp", "1"),
        preexec=at_most(resource.RLIMIT_AS, 250 * 1024**2),
        env={"OPENBLAS_NUM_THREADS": "1"},
    )
    result.check_error(1, "a library cannot be loaded")


def test_no_room_for_temporary_files(tmp_path: Path) -> None:
    result = neoxrun(
        *("generate", "demo", "--prompt", "x", "--tp", "2"),
        env={"TMPDIR": str(tmp_path)},
        preexec=at_most(resource.RLIMIT_FSIZE, 0),
    )
    result.check_error(4, "temporary files", "TMPDIR")
    assert not list(tmp_path.iterdir())


def test_the_command_is_the_installed_one() -> None:
    assert NEOXRUN.is_file(), "install the project: pip install -e ."
