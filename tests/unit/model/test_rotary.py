"""Cosines and sines of scaled rotary positions, against those of transformers for the same config.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding

from neoxrun.config.rope import read_rope_scaling
from neoxrun.model.rotary import rotary_tables
from support.checkpoints import tiny

YARN = {"rope_type": "yarn", "factor": 4.0}
POSITIONS = 300


@pytest.mark.parametrize("old_keys", [True, False], ids=["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("rope", "others"),
    [
        ({"type": "linear", "factor": 2.0}, {}),
        ({"rope_type": "linear", "factor": 3}, {}),
        ({"rope_type": "default"}, {}),
        (YARN, {}),
        (YARN | {"original_max_position_embeddings": 64}, {}),
        (YARN | {"original_max_position_embeddings": 64}, {"original_max_position_embeddings": 40}),
        (YARN | {"original_max_position_embeddings": 64, "factor": None}, {}),
        (YARN | {"original_max_position_embeddings": 64, "attention_factor": 0.9}, {}),
        (YARN | {"original_max_position_embeddings": 64, "beta_fast": 8, "beta_slow": 2}, {}),
        (YARN | {"original_max_position_embeddings": 64, "beta_fast": 8, "truncate": False}, {}),
        (YARN | {"original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 0.3}, {}),
        (YARN | {"original_max_position_embeddings": 64, "mscale": 0.7}, {}),
        (YARN | {"factor": 0.5, "beta_slow": 32}, {}),
    ],
)
def test_the_angles_are_those_of_transformers(
    tmp_path: Path, rope: dict[str, Any], others: dict[str, Any], old_keys: bool
) -> None:
    """Below and beyond the original context, for a model whose share and base are among the same keys or not."""
    config = tiny(hidden_size=128, rotary_pct=0.5, rotary_emb_base=500.0)
    content: dict[str, Any] = {"model_type": "gpt_neox", "hidden_size": 128, "num_attention_heads": 4}
    content |= {"max_position_embeddings": 256, **others}
    if old_keys:
        content |= {"rope_scaling": rope, "rotary_pct": 0.5, "rotary_emb_base": 500}
    else:
        content |= {"rope_parameters": {**rope, "partial_rotary_factor": 0.5, "rope_theta": 500}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    embedding = GPTNeoXRotaryEmbedding(AutoConfig.from_pretrained(tmp_path))
    cos, sin = embedding(torch.empty(0), torch.arange(POSITIONS)[None])
    scaling = read_rope_scaling(content)
    assert (scaling is None) == ("default" in rope.values())
    tables = rotary_tables(replace(config, rope_scaling=scaling), POSITIONS, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(tables[0], cos[0], atol=2e-5, rtol=0)
    half = sin.shape[-1] // 2
    torch.testing.assert_close(tables[1][:, half:], sin[0, :, half:], atol=2e-5, rtol=0)
    torch.testing.assert_close(tables[1][:, :half], -sin[0, :, :half], atol=2e-5, rtol=0)
