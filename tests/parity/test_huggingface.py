"""GPT-NeoX's weights in Hugging Face's network give GPT-NeoX's answers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from neoxrun.checkpoint.huggingface import to_hugging_face_name
from support.checkpoints import fixture_config, load_all, tiny
from support.hugging_face import twin
from support.paths import FIXTURES


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("tp1", "logits"),
        ("tp1_full_rotary_erf", "logits"),
        ("tp1_sequential_residual", "logits"),
        ("tp2_legacy_20b", "logits_merged"),
    ],
)
def test_neox_weights_under_hugging_face_names_give_neox_logits(name: str, answer: str) -> None:
    """Names, merging, the layout of query_key_value: transformers computes what GPT-NeoX computed."""
    folder = FIXTURES / name
    config = fixture_config(folder)
    if name == "tp1_full_rotary_erf":
        config = tiny(**{**vars(config), "gelu": "erf"})
    (weights,) = load_all(folder, config, 1)
    model = twin(config, 512)
    names = {to_hugging_face_name(key, config.num_layers).replace("embed_out", "lm_head"): key for key in weights}
    model.load_state_dict({name: weights[key] for name, key in names.items()})
    stored = load_file(folder / f"{answer}.safetensors")
    with torch.no_grad():
        logits = model(stored["input_ids"]).logits
    torch.testing.assert_close(logits, stored["logits"], rtol=0, atol=1e-4)
