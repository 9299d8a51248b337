"""How a fine-tuning ends before its last step: it has a checkpoint then, whether it was asked to end or not."""

from __future__ import annotations

import os
import signal
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
    assert "Checkpoints that were written are kept; continue with --resume." in result.err
    assert (run / (run / "latest").read_text() / "neoxrun.checkpoint.json").is_file()
