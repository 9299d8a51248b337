"""Whole trainings with DeepSpeed against GPT-NeoX's: losses, learning rates, norms, evaluations and weights.

Every split and every stage of ZeRO has to give the same curve: the arithmetic is that of one rank.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch

from neoxrun.config.tensors import TensorKey
from neoxrun.config.training import ScheduleConfig, TrainingConfig, ZeroConfig
from support.checkpoints import fixture_config, raw_shards
from support.lora_training import assert_same_matrices
from support.paths import FIXTURES
from support.training import FIXTURES_TRAIN, Curve, TrainingCase, reference_rows, run_curve, run_split

pytestmark = [
    pytest.mark.skipif(not FIXTURES_TRAIN.is_dir(), reason="no fixtures-train (NEOXRUN_SHARED names its parent)"),
    pytest.mark.timeout(900),  # the first of them waits for all runs, on four processes
]

SETTINGS = TrainingConfig(
    train_iters=20,
    train_batch_size=4,
    micro_batch_size=4,
    schedule=ScheduleConfig(lr=1e-3, min_lr=1e-4, style="cosine", warmup_iters=4.0, decay_iters=20),
    betas=(0.9, 0.95),
    weight_decay=0.1,
    gradient_clipping=2.0,
    eval_iters=4,
)
OFFLOADED = ZeroConfig(3, offload_optimizer=True, offload_parameters=True)
# The split, the rows of a micro-batch and ZeRO.
RUNS: dict[str, tuple[tuple[int, int], int, ZeroConfig]] = {
    "micro4_zero0": ((1, 1), 4, ZeroConfig()),
    "micro1_zero0": ((1, 1), 1, ZeroConfig()),
    "micro4_zero1": ((1, 1), 4, ZeroConfig(1)),
    "micro1_zero1": ((1, 1), 1, ZeroConfig(1)),
    "tp2 dp2 zero2": ((2, 2), 1, ZeroConfig(2)),
    "tp2 dp2 zero3 offloaded": ((2, 2), 2, OFFLOADED),
}
if os.environ.get("NEOXRUN_THOROUGH"):
    RUNS |= {
        "zero2 offloaded": ((1, 1), 1, ZeroConfig(2, offload_optimizer=True)),
        "zero3 offloaded": ((1, 1), 4, OFFLOADED),
        "tp2": ((2, 1), 4, ZeroConfig()),
        "tp2 zero1": ((2, 1), 1, ZeroConfig(1)),
        "tp2 zero3": ((2, 1), 4, ZeroConfig(3)),
        "dp2": ((1, 2), 1, ZeroConfig()),
        "dp2 zero1": ((1, 2), 2, ZeroConfig(1)),
        "dp2 zero2 offloaded": ((1, 2), 1, ZeroConfig(2, offload_optimizer=True)),
        "dp2 zero3 offloaded": ((1, 2), 2, OFFLOADED),
        "tp2 dp2": ((2, 2), 2, ZeroConfig()),
        "tp2 dp2 zero3": ((2, 2), 1, ZeroConfig(3)),
        "dp4": ((1, 4), 1, ZeroConfig()),
        "dp4 zero1": ((1, 4), 1, ZeroConfig(1)),
    }
SPLITS = sorted({split for split, _, _ in RUNS.values()})
ADAPTERS = {"zero0": ZeroConfig(), "zero3 offloaded": OFFLOADED}
"""Trainings of PEFT's stored adapter at tp 2 x dp 2, in micro-batches of one row."""


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Curve]:
    folder, model = tmp_path_factory.mktemp("curves"), FIXTURES / "tp1"
    train, valid = (reference_rows(split).flatten(0, 1) for split in ("train", "valid"))
    found: dict[str, Curve] = {}
    for split in SPLITS:
        cases = {
            name: TrainingCase(
                fixture_config(model), model, train, replace(SETTINGS, micro_batch_size=micro, zero=zero), valid=valid
            )
            for name, (own, micro, zero) in RUNS.items()
            if own == split
        }
        if split == (2, 2):
            adapter, fewer = FIXTURES_TRAIN / "lora" / "adapter_before", replace(SETTINGS, train_iters=8, eval_iters=0)
            for name, zero in ADAPTERS.items():
                settings = replace(fewer, micro_batch_size=1, zero=zero)
                case = TrainingCase(fixture_config(model), model, train, settings, adapter=adapter)
                cases[f"adapter, {name}"] = case
        found |= run_split(run_curve, cases, split, folder)
    return found


@pytest.mark.parametrize("name", RUNS)
def test_curve_is_that_of_gpt_neox(name: str, curves: dict[str, Curve]) -> None:
    known = json.loads((FIXTURES_TRAIN / "tp1" / "curves.json").read_text())["runs"]
    references = [known[name]] if name in known else [known["micro1_zero0"], known["micro4_zero0_pipe0"]]
    curve = curves[name]
    for expected in references:
        assert [step.lr for step in curve.steps] == pytest.approx(expected["lr"], abs=1e-12)
        assert [step.loss for step in curve.steps] == pytest.approx(expected["lm_loss"], abs=1e-5)
        assert [step.grad_norm for step in curve.steps] == pytest.approx(expected["grad_norm"], abs=1e-5)
        assert curve.evaluations == pytest.approx([expected["eval_before"], expected["eval_after"]], abs=1e-5)
    assert {step.tokens for step in curve.steps} == {256}


@pytest.mark.parametrize("name", RUNS)
def test_weights_are_those_of_gpt_neox(name: str, curves: dict[str, Curve]) -> None:
    (expected,) = raw_shards(FIXTURES_TRAIN / "tp1")
    weights = curves[name].weights
    assert weights.keys() == expected.keys()
    for key, tensor in expected.items():
        kept = meaningful(key, tensor)
        torch.testing.assert_close(
            weights[key][kept], tensor[kept], atol=5e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_an_adapters_curve_is_that_of_peft(curves: dict[str, Curve]) -> None:
    """With little and with everything divided and offloaded by ZeRO."""
    right = json.loads((FIXTURES_TRAIN / "lora" / "curve.json").read_text())["schedule"]
    found = [curves[f"adapter, {name}"] for name in ADAPTERS]
    for curve in found:
        assert [step.loss for step in curve.steps] == pytest.approx(right["lm_loss"][:8], abs=1e-5)
        assert [step.grad_norm for step in curve.steps] == pytest.approx(right["grad_norm"][:8], abs=1e-5)
        assert not curve.weights, "the model itself is frozen"
    assert_same_matrices(found[0].adapter, found[1].adapter, 1e-5)


def meaningful(key: TensorKey, tensor: torch.Tensor) -> torch.Tensor:
    """Which numbers two right programs agree on.

    A key's bias outside the rotary dims is lost in the softmax: its gradient is noise, which Adam makes steps of.
    """
    kept = torch.ones_like(tensor, dtype=torch.bool)
    if key.name == "attention.query_key_value.bias":
        heads = kept.view(4, 3, 16)
        heads[:, 1, 4:] = False
    return kept
