"""How a fine-tuning ends before its last step: it has a checkpoint then, whether it was asked to end or not."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.command import Running, running, wait_for
from support.paths import ROOT

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")

LONG = [
    "--data",
    ROOT / "README.md",
    "--seq-length",
    "16",
    "--steps",
    "2000",
    "--save-interval",
    "3",
    "--device",
    "cpu",
]


def started(command: Running, run: Path, checkpoints: int = 0) -> None:
    """Wait for steps that are kept, or for checkpoints."""

    def enough() -> bool:
        metrics = run / "metrics.jsonl"
        saved = len(list(run.glob("global_step*/neoxrun.checkpoint.json")))
        return metrics.is_file() and len(metrics.read_text().splitlines()) > 1 and saved >= checkpoints

    wait_for(enough, 120, lambda: f"no steps: {command.process.poll()}")


@pytest.mark.parametrize(
    ("number", "split"),
    [(signal.SIGINT, ("--replicas", "2", "--batch-size", "2")), (signal.SIGTERM, ("--batch-size", "1"))],
    ids=["Ctrl-C on two ranks", "SIGTERM on one"],
)
def test_a_run_that_is_asked_to_end_writes_a_checkpoint(
    tmp_path: Path, number: signal.Signals, split: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    with running("finetune", "demo", *LONG, "--output", run, *split) as command:
        started(command, run)
        if number == signal.SIGINT:
            command.interrupt()
        else:
            command.process.send_signal(number)
        result = command.finish()
        command.check_all_gone()
    assert result.code == 130, result.err
    newest = (run / "latest").read_text()
    steps = int(newest.removeprefix("global_step"))
    assert f"error: interrupted after {steps} step" in result.err
    assert f"{run / newest} is whole; continue with --resume." in result.err
    assert (run / newest / "neoxrun.checkpoint.json").is_file()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == steps


def test_a_rank_that_is_killed_ends_the_run_with_its_last_checkpoint_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with running("finetune", "demo", *LONG, "--output", run, "--tp", "2", "--batch-size", "1") as command:
        started(command, run, checkpoints=1)
        os.kill(command.rank(1), signal.SIGKILL)
        result = command.finish()
        command.check_all_gone()
    assert result.code == 5, result.err
    assert "error: rank 1 on " in result.err
    assert "was killed by SIGKILL" in result.err
    assert re.search(rf"{run}/global_step\d+ is whole: --resume continues from it.", result.err)
    assert (run / (run / "latest").read_text() / "neoxrun.checkpoint.json").is_file()


@pytest.mark.parametrize(
    ("number", "split"),
    [(signal.SIGINT, ("--batch-size", "1")), (signal.SIGTERM, ("--batch-size", "2", "--replicas", "2"))],
    ids=["Ctrl-C on one rank", "SIGTERM on two"],
)
def test_a_run_that_is_asked_to_end_in_an_evaluation_does_so_soon(
    tmp_path: Path, number: signal.Signals, split: tuple[str, ...]
) -> None:
    """One of many batches, after the third step, with a checkpoint in which the evaluation is due."""
    run = tmp_path / "run"
    long = ("--eval-data", ROOT / "docs/finetune.md", "--eval-interval", "3", "--eval-iters", "400", *split)

    def steps() -> int:
        file = run / "metrics.jsonl"
        return sum("eval_loss" not in line for line in file.read_text().splitlines()) if file.is_file() else 0

    with running("finetune", "demo", *LONG, "--output", run, *long) as command:
        wait_for(lambda: steps() == 3 or command.process.poll() is not None, 120, lambda: "no steps")
        begun = time.monotonic()
        command.interrupt() if number == signal.SIGINT else command.process.send_signal(number)
        result = command.finish()
        assert time.monotonic() - begun < 10
        command.check_all_gone()
    assert result.code == 130, result.err
    assert "error: interrupted after 3 steps of 2000" in result.err
    facts = json.loads((run / "global_step3" / "neoxrun.checkpoint.json").read_text())
    assert facts["due"] == ["evaluation", "samples"]
    assert facts["evaluations"] == 0


def test_a_run_that_is_asked_to_end_before_its_first_step_has_no_checkpoint(tmp_path: Path) -> None:
    """And says so: the same command starts it again."""
    run = tmp_path / "run"
    words = ("finetune", "demo", *LONG, "--output", run, "--batch-size", "1")
    with running(*words) as command:
        wait_for((run / "settings.json").is_file, 120, lambda: f"no run: {command.process.poll()}")
        command.interrupt()
        result = command.finish()
        command.check_all_gone()
    assert result.code == 130, result.err
    assert "error: interrupted" in result.err
    assert "hint: No checkpoint has been written yet: the same command starts again." in result.err
    with running(*words) as command:
        started(command, run)


def test_a_rank_that_is_stopped_ends_the_run_with_its_last_checkpoint_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("--tp", "2", "--batch-size", "1", "--stall-timeout", "3")
    with running("finetune", "demo", *LONG, "--output", run, *words) as command:
        started(command, run, checkpoints=1)
        stopped, begun = command.rank(1), time.monotonic()
        os.kill(stopped, signal.SIGSTOP)
        result = command.finish()
        assert time.monotonic() - begun < 20
        command.check_all_gone()
    assert result.code == 5, result.err
    assert f"error: rank 1 on {socket.gethostname()} (process {stopped}) has made no step for 3 s" in result.err
    assert re.search(rf"{run}/global_step\d+ is whole: --resume continues from it. --stall-timeout", result.err)
