"""Saving layer files."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.errors import CheckpointError, UsageError
from support.checkpoints import TINY, random_model


def test_saving_a_model_that_does_not_divide(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="num_attention_heads 4 does not divide over 3") as caught:
        save_layer_files(random_model(TINY, 8), tmp_path, tp=3, config=TINY, tag="global_step1")
    assert caught.value.code == "impossible_split"
    model = random_model(TINY, 8)
    model.popitem()
    with pytest.raises(CheckpointError, match="missing or unexpected tensor: layer 6") as caught:
        save_layer_files(model, tmp_path, tp=1, config=TINY, tag="global_step1")
    assert caught.value.code == "wrong_tensors"


def test_saved_files_hold_their_own_share_only(tmp_path: Path) -> None:
    save_layer_files(random_model(TINY, 4096), tmp_path, tp=4, config=TINY, tag="global_step1")
    size = (tmp_path / "global_step1/layer_00-model_00-model_states.pt").stat().st_size
    assert size < 4096 * 16 * 4 // 4 + 4096
