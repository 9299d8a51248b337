"""Tensors of quantised models, and weights in place of a configuration.

tests/unit/config/test_folders.py has the folders of other formats.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.config.foreign import refuse_quantised_tensor
from neoxrun.config.reader import load_settings
from neoxrun.errors import CheckpointError, ConfigError


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


@pytest.mark.parametrize(
    ("named", "hint"),
    [
        ("model/model.safetensors", "`./model`"),
        ("model/pytorch_model.BIN", "`./model`"),
        ("{here}/model/layer_00-model_00-model_states.pt", "`{here}/model`"),
        ("model-q4.gguf", "llama.cpp"),
        ("model.safetensors", "`{here}`"),
    ],
)
def test_a_file_of_weights_in_place_of_a_configuration(
    named: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, hint = named.format(here=tmp_path), hint.format(here=tmp_path)
    monkeypatch.chdir(tmp_path)
    Path(named).parent.mkdir(exist_ok=True)
    Path(named).write_bytes(b"PK\x03\x04\xff")
    with pytest.raises(ConfigError, match="is a file of weights, not a configuration") as caught:
        load_settings([named])
    assert (caught.value.where, caught.value.code) == (named, "unreadable_configuration")
    assert hint in str(caught.value.hint)
