"""Tensors that only quantised models have. (tests/unit/config/test_folders.py has the folders of other formats.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.config.foreign import refuse_quantised_tensor
from neoxrun.errors import CheckpointError


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpt_neox.layers.0.attention.dense.qweight", "gptq or awq"),
        ("gpt_neox.layers.0.attention.dense.g_idx", "gptq"),
        ("gpt_neox.layers.0.mlp.dense_h_to_4h.SCB", "bitsandbytes"),
        ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight.absmax", "bitsandbytes"),
    ],
)
def test_tensors_of_quantised_layers_are_refused(name: str, says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        refuse_quantised_tensor(name, Path("model.safetensors"))
    assert f"quantised ({says})" in caught.value.message
    assert caught.value.code == "unsupported_checkpoint"


@pytest.mark.parametrize("name", ["gpt_neox.layers.0.attention.dense.weight", "embed_out.weight", "scale"])
def test_other_tensors_pass(name: str) -> None:
    refuse_quantised_tensor(name, Path("model.safetensors"))
