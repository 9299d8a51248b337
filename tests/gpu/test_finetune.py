"""`neoxrun finetune` on GPUs: losses that fall as on one rank in fp32, at any split, and a run that can be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from support.command import Result, neoxrun
from support.paths import ROOT

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is visible"),
    pytest.mark.timeout(300),
]

STEPS = 12


def losses(run: Path, *arguments: object, gpus: str = "0", steps: int = STEPS) -> list[float]:
    """Of the steps, and of the evaluation at the end, of a run on texts of the repository."""
    data = ("--data", ROOT / "docs/architecture.md", "--eval-data", ROOT / "README.md")
    sizes = ("--steps", STEPS, "--batch-size", 8, "--seq-length", 128, "--lr", 1e-3, "--save-interval", 6)
    # Devices and number formats draw other dropout.
    dropout = ("--set", "hidden_dropout=0", "--set", "attention_dropout=0")
    words = ("finetune", "demo", *data, *sizes, *dropout, "--eval-iters", 4, "--output", run, *arguments)
    neoxrun(*words, env={"CUDA_VISIBLE_DEVICES": gpus}, timeout=200).check_success()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [record["loss"] for record in records if "loss" in record]
    assert len(found) == steps
    return [*found, next(record["eval_loss"] for record in reversed(records) if "eval_loss" in record)]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """In fp32, on one card."""
    found = losses(tmp_path_factory.mktemp("exact") / "run", "--dtype", "fp32")
    assert found[-2] < found[0] - 0.5
    return found


def check_close(found: list[float], exact: list[float], within: float) -> None:
    assert max(abs(one - other) for one, other in zip(found, exact, strict=True)) < within


def test_bf16_follows_fp32_and_the_run_can_be_used(exact: list[float], tmp_path: Path) -> None:
    run = tmp_path / "run"
    check_close(losses(run, "--dtype", "bf16"), exact, 0.05)
    answer = neoxrun("generate", run, "--prompt", "The engine", "--maximum-tokens", 8, timeout=120).check_success()
    assert answer.out.strip()


def test_fp16_follows_fp32(exact: list[float], tmp_path: Path) -> None:
    check_close(losses(tmp_path / "run", "--dtype", "fp16"), exact, 0.05)


def in_fp16(run: Path, **scale: float) -> Result:
    """A short run whose losses are multiplied by a scale at which gradients overflow at first."""
    words = ("finetune", "demo", "--data", ROOT / "README.md", "--steps", 24, "--batch-size", 4, "--seq-length", 64)
    block = {"enabled": True, "initial_scale_power": 28, "hysteresis": 1, **scale}
    more = ("--warmup", 0.5, "--save-interval", 12, "--dtype", "fp16", "--set", f"fp16={json.dumps(block)}")
    return neoxrun(*words, *more, "--output", run, env={"CUDA_VISIBLE_DEVICES": "0"}, timeout=200)


def test_steps_that_fp16_leaves_out_do_not_move_the_rate_on(tmp_path: Path) -> None:
    in_fp16(tmp_path / "run").check_success()
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    steps = [line for line in lines if "loss" in line]
    left_out = sum(step["skipped"] for step in steps)
    assert 2 < left_out < 18
    applied = [step["lr"] for step in steps if not step["skipped"]]
    assert steps[0]["lr"] == applied[0] == applied[1] < applied[2]  # GPT-NeoX's first two are the same


def test_fp16_at_its_least_loss_scale_has_diverged(tmp_path: Path) -> None:
    done = in_fp16(tmp_path / "run", min_loss_scale=2**27)
    done.check_error(5, "the gradients of step 2 are beyond fp16 even at the least loss scale", "or use --dtype bf16")


def test_activations_computed_twice_and_kept_on_the_host_change_nothing(exact: list[float], tmp_path: Path) -> None:
    how = ("--dtype", "fp32", "--checkpoint-activations", "--zero-stage", 3, "--offload", "all")
    check_close(losses(tmp_path / "run", *how), exact, 1e-3)


def test_a_deterministic_run_continues_bit_for_bit(tmp_path: Path) -> None:
    how = ("--dtype", "bf16", "--deterministic", "--lora", "--lora-dropout", 0.1)
    whole = losses(tmp_path / "whole", *how)
    again = losses(tmp_path / "cut", *how)
    assert again == whole
    run = tmp_path / "cut"
    removed = run / f"global_step{STEPS}"
    removed.rename(tmp_path / "removed")
    (run / "latest").write_text("global_step6")
    assert losses(run, *how, "--resume") == whole


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than 2 GPUs are visible")
@pytest.mark.parametrize("split", [("--tp", 2), ("--replicas", 2), ("--replicas", 2, "--zero-stage", 3)])
def test_two_cards_follow_one(exact: list[float], tmp_path: Path, split: tuple[object, ...]) -> None:
    check_close(losses(tmp_path / "fp32", "--dtype", "fp32", *split, gpus="0,1"), exact, 1e-3)
    check_close(losses(tmp_path / "bf16", "--dtype", "bf16", *split, gpus="0,1"), exact, 0.05)
