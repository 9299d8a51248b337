"""What DeepSpeed is told, and what it is asked for."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from neoxrun.config.reader import load_settings
from neoxrun.config.training import LossScaleConfig
from neoxrun.parallel import mesh as meshes
from neoxrun.training.deepspeed_engine import _deepspeed_config
from support.ranks import CPU
from support.training import TrainingCase, run_curve
from support.training_runs import TRAINING, prepare

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


def test_the_loss_scale_is_that_of_the_settings() -> None:
    from deepspeed.runtime.precision_config import get_float16_config

    training = replace(TRAINING, loss_scale=LossScaleConfig(0.0, 12, 500, 3, 4.0))
    told = get_float16_config(_deepspeed_config(training, meshes.single_rank_mesh(CPU), "fp16", 1))
    assert told.enabled
    assert told.loss_scale == 0
    scaling = (told.initial_scale_power, told.loss_scale_window, told.hysteresis, told.min_loss_scale)
    assert scaling == (12, 500, 3, 4)
    fixed = replace(TRAINING, loss_scale=LossScaleConfig(fixed=128.0))
    assert get_float16_config(_deepspeed_config(fixed, meshes.single_rank_mesh(CPU), "fp16", 1)).loss_scale == 128


def test_the_loss_of_a_micro_batch_is_the_mean_of_its_tokens(tmp_path: Path) -> None:
    """However many of them are learned; those of a step are weighted by that."""
    prepare(tmp_path)
    config = load_settings([str(tmp_path / "model" / "config.yml")]).model
    learned = torch.arange(16) < torch.tensor([1, 3, 8, 16])[:, None]
    ids = torch.randint(0, 500, (4, 17), generator=torch.Generator().manual_seed(0))
    training = replace(TRAINING, train_iters=1, micro_batch_size=1, eval_iters=0)
    try:
        mesh = meshes.single_rank_mesh(CPU)
        (step,) = run_curve(TrainingCase(config, tmp_path / "model", ids, training, learned=learned), mesh).steps
    finally:
        meshes.disconnect_ranks()
    counts = learned.sum(1)
    assert step.loss == pytest.approx(float((torch.tensor(step.parts) * counts).sum() / counts.sum()), rel=1e-6)
    assert all(4 < part < 20 for part in step.parts)
