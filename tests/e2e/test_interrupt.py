"""How a run ends before its time: Ctrl-C, signals, ranks that die.

Whatever happens, what was finished stays, no process is left behind, and --resume completes it to what an
uninterrupted run gives.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from neoxrun.launch.job import Job
from support.command import Running, answers_of, neoxrun, records_of, running, wait_for
from support.snapshots import Snapshot

PROMPTS = [f"def function_{number}(value):" for number in range(24)]
# Greedy, so that runs can be compared, and one prompt after the other, so that records come one by one.
SLOWLY = ["--temperature", "0", "--maximum-tokens", "60", "--ignore-eos", "--dtype", "fp32", "--batch-size", "1"]
SPLITS = [("--tp", "1"), ("--tp", "2"), ("--tp", "1", "--replicas", "2")]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """The answers of a run that nothing interrupts."""
    path = tmp_path_factory.mktemp("whole") / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    fast = [word for word in SLOWLY if word not in ("--batch-size", "1")]
    return answers_of(neoxrun("generate", "demo", "-i", path, "-o", "-", "--tp", "1", *fast).check_success().records)


def started(command: Running, output: Path, records: int = 2) -> None:
    """Wait until ``records`` answers are in the file, and make sure that more are to come."""

    def enough() -> bool:
        assert command.process.poll() is None, command.finish().err
        return output.exists() and output.read_bytes().count(b"\n") >= records

    wait_for(enough, 60, lambda: "no records came")


def check_kept(output: Path, whole_run: list[tuple[Any, ...]]) -> None:
    """What is there is whole and right, and not everything."""
    kept = answers_of(records_of(output))
    assert 0 < len(kept) < len(whole_run)
    assert set(kept) <= set(whole_run)


def check_resumed(prompts: Path, output: Path, whole_run: list[tuple[Any, ...]]) -> None:
    """--resume, at one rank and in large batches, makes it what an uninterrupted run gives."""
    before = output.read_bytes()
    fast = [word for word in SLOWLY if word not in ("--batch-size", "1")]
    neoxrun("generate", "demo", "-i", prompts, "-o", output, "--tp", "1", "--resume", *fast).check_success()
    assert output.read_bytes().startswith(before)
    assert answers_of(records_of(output)) == whole_run


@pytest.mark.parametrize("split", SPLITS, ids=" ".join)
def test_ctrl_c_while_generating(
    split: tuple[str, ...], prompts: Path, tmp_path: Path, whole_run: list[tuple[Any, ...]], snapshot: Snapshot
) -> None:
    output = tmp_path / "out.jsonl"
    with running("generate", "demo", "-i", prompts, "-o", output, *split, *SLOWLY) as command:
        started(command, output)
        command.interrupt()
        result = command.finish(timeout=10)
        command.check_all_gone()
    snapshot(result.check_error(130, "--resume"))
    check_kept(output, whole_run)
    if split == SPLITS[-1]:
        check_resumed(prompts, output, whole_run)


def test_ctrl_c_before_the_first_record(prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"

    def written() -> bool:
        with contextlib.suppress(FileNotFoundError):
            return (tmp_path / "out.jsonl.meta.json").stat().st_size > 0
        return False

    long = ["--maximum-tokens", "480", "--ignore-eos", "--dtype", "fp32", "--tp", "1", "--batch-size", "1"]
    with running("generate", "demo", "-i", prompts, "-o", output, *long) as command:
        # Written when all is loaded, and an answer takes more than a second from there. Before that the command tries
        # whether it can be written, with an empty file.
        wait_for(written, 60, lambda: "nothing was started")
        command.interrupt()
        result = command.finish().check_error(130, "interrupted")
    assert output.read_bytes() == b""
    assert "Finished records" not in result.err
    assert "in out.jsonl" not in result.err


@pytest.mark.parametrize(("split", "delay"), [(SPLITS[0], 1.0), (SPLITS[1], 0.6), (SPLITS[1], 2.5), (SPLITS[1], 4.5)])
def test_ctrl_c_while_loading(split: tuple[str, ...], delay: float, prompts: Path, tmp_path: Path) -> None:
    """Whatever is going on then: imports, the meeting of the ranks, or weights."""
    output = tmp_path / "out.jsonl"
    with running("generate", "demo", "-i", prompts, "-o", output, *split, *SLOWLY) as command:
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.process.wait(delay)
        command.interrupt()
        result = command.finish(timeout=10)
        command.check_all_gone()
    result.check_error(130)
    assert ("Finished records are kept" in result.err) == (output.exists() and output.stat().st_size > 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_is_killed(
    rank: int, prompts: Path, tmp_path: Path, whole_run: list[tuple[Any, ...]], snapshot: Snapshot
) -> None:
    output = tmp_path / "out.jsonl"
    with running("generate", "demo", "-i", prompts, "-o", output, "--tp", "2", *SLOWLY) as command:
        started(command, output)
        process = command.rank(rank)
        os.kill(process, signal.SIGKILL)
        result = command.finish(timeout=10)
        command.check_all_gone()
    result.check_error(5, f"rank {rank}", socket.gethostname(), "SIGKILL", "memory", "--resume")
    snapshot(result, replace={f"process {process}": "process PID"})
    check_kept(output, whole_run)
    if rank == 1:
        check_resumed(prompts, output, whole_run)


@pytest.mark.parametrize("split", SPLITS[1:], ids=" ".join)
def test_a_rank_is_stuck(
    split: tuple[str, ...], prompts: Path, tmp_path: Path, whole_run: list[tuple[Any, ...]]
) -> None:
    output = tmp_path / "out.jsonl"
    arguments = ("-i", prompts, "-o", output, *split, *SLOWLY, "--stall-timeout", 3)
    with running("generate", "demo", *arguments) as command:
        started(command, output)
        process = command.rank(1)
        os.kill(process, signal.SIGSTOP)
        result = command.finish(timeout=40)
        command.check_all_gone()
    what = f"rank 1 on {socket.gethostname()} (process {process}) has made no step for 3 s"
    result.check_error(5, what, "--resume", "--stall-timeout")
    check_kept(output, whole_run)


def test_the_launcher_is_killed(prompts: Path, tmp_path: Path, whole_run: list[tuple[Any, ...]]) -> None:
    output = tmp_path / "out.jsonl"
    with running("generate", "demo", "-i", prompts, "-o", output, "--tp", "2", *SLOWLY) as command:
        started(command, output)
        assert len(command.processes()) == 3
        command.process.kill()
        command.check_all_gone()
    check_kept(output, whole_run)


def test_what_killed_launchers_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else: not what a living one holds, what is too new to tell, or what only has such a name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    work = Job("none", settings=None, plan=None, kept="")
    held = work.save()
    code = "from neoxrun.launch.job import Job; print(Job('none', None, None, kept='').save())"
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    dead, new = (
        Path(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout.strip())
        for _ in range(2)
    )
    other = tmp_path / "neoxrun-job-of-mine"
    other.mkdir()
    for folder in (held, dead, other):
        os.utime(folder, (0, 0))
    started = work.save()
    assert set(tmp_path.iterdir()) == {held, new, other, started}


@pytest.mark.parametrize("split", SPLITS[:2], ids=" ".join)
def test_the_launcher_is_terminated(
    split: tuple[str, ...], prompts: Path, tmp_path: Path, whole_run: list[tuple[Any, ...]], snapshot: Snapshot
) -> None:
    """SIGTERM is answered like Ctrl-C, also by what a script has started with `&`, which ignores Ctrl-C."""
    output = tmp_path / "out.jsonl"
    arguments = ("generate", "demo", "-i", prompts, "-o", output, *split, *SLOWLY)
    with running(*arguments, preexec=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) as command:
        started(command, output)
        command.process.terminate()
        result = command.finish(timeout=15)
        command.check_all_gone()
    snapshot(result.check_error(143, "ended by SIGTERM", "--resume"))
    check_kept(output, whole_run)
    if split == SPLITS[0]:
        check_resumed(prompts, output, whole_run)


@pytest.mark.parametrize(("split", "delay"), [(SPLITS[0], 2.0), (SPLITS[1], 2.5)])
def test_the_launcher_is_terminated_while_loading(
    split: tuple[str, ...], delay: float, prompts: Path, tmp_path: Path
) -> None:
    with running("generate", "demo", "-i", prompts, "-o", tmp_path / "out.jsonl", *split, *SLOWLY) as command:
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.process.wait(delay)
        command.process.terminate()
        result = command.finish(timeout=15)
        command.check_all_gone()
    result.check_error(143, "ended by SIGTERM")


def test_the_command_is_terminated_while_it_reads(tmp_path: Path) -> None:
    """Before there are ranks: here it waits for prompts."""
    arguments = ("generate", "demo", "-i", "-", "-o", tmp_path / "out.jsonl", *SLOWLY)
    with running(*arguments, stdin=subprocess.PIPE) as command:
        with pytest.raises(subprocess.TimeoutExpired):
            command.process.wait(3)
        command.process.terminate()
        result = command.finish(timeout=15)
    result.check_error(143, "ended by SIGTERM")
