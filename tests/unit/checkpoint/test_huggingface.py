"""Hugging Face folders: names in both directions, shards, and configurations that disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neoxrun.checkpoint.huggingface import check_config_json, is_buffer, to_hugging_face_name, to_tensor_key
from neoxrun.checkpoint.writers import from_huggingface
from neoxrun.config.settings import RopeScaling
from neoxrun.errors import CheckpointError
from support.checkpoints import TINY, random_model, tiny

CONFIG = {
    "model_type": "gpt_neox",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu_fast",
    "rotary_pct": 0.5,
}


def test_names_convert_in_both_directions() -> None:
    for key in random_model(TINY, 8):
        assert to_tensor_key(to_hugging_face_name(key, TINY.num_layers), TINY.num_layers) == key
    assert to_tensor_key("transformer.h.0.weight", 2) is None


def test_tensors_of_other_models_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"unexpected tensor transformer\.wte\.weight") as caught:
        from_huggingface({"transformer.wte.weight": torch.ones(1)})
    assert caught.value.code == "wrong_tensors"


@pytest.mark.parametrize(
    ("found", "configured", "says"),
    [
        (
            {"use_parallel_residual": False},
            {},
            "use_parallel_residual is False in config.json, gpt_j_residual is True",
        ),
        ({"rotary_pct": 0.25}, {}, "rotary share is 0.25 in config.json, rotary_pct is 0.5"),
        ({"rotary_emb_base": 500}, {}, "rotary base is 500 in config.json, rotary_emb_base is 10000.0"),
        ({"rotary_pct": None, "partial_rotary_factor": 0.25}, {}, "rotary share is 0.25"),
        ({"rope_parameters": {"rope_theta": 500, "partial_rotary_factor": 0.5}}, {}, "rotary base is 500"),
        ({"rope_parameters": {"rope_theta": 10000, "partial_rotary_factor": 1.0}}, {}, "rotary share is 1.0"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            {},
            "rotary scaling is linear by 2 from 2048 positions in config.json, rope_scaling is not scaled in",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_type": "yarn"}},
            {},
            """--set 'rope_scaling={"type": "linear", "factor": 2}'""",
        ),
        ({}, {"rope_scaling": RopeScaling("linear", 2.0, 8)}, "--set 'rope_scaling=null'"),
        ({"layer_norm_eps": 1e-6}, {}, "layer_norm_eps is 1e-06 in config.json, layernorm_epsilon is 1e-05"),
        ({}, {"tie_embeddings": True}, "tie_word_embeddings is False in config.json, weight tying is True"),
        (
            {"max_position_embeddings": 8},
            {"seq_length": 9},
            "max_position_embeddings is 8 in config.json, seq_length is 9",
        ),
        ({"num_attention_heads": 2}, {}, "num_attention_heads is 2 in config.json, num_attention_heads is 4"),
        ({"num_hidden_layers": 3}, {}, "num_hidden_layers is 3 in config.json, num_layers is 2"),
        ({"attention_bias": False}, {}, "attention_bias is False"),
        ({"model_type": "llama"}, {}, "a model of type 'llama'"),
        ({"hidden_act": "relu"}, {}, "hidden_act 'relu'"),
        ({}, {"pos_emb": "learned"}, "position embedding is rotary in config.json, pos_emb is learned"),
        ({}, {"norm": "rmsnorm"}, "norm is layernorm in config.json, norm is rmsnorm"),
        ({}, {"gpt_j_tied": True}, "gpt_j_tied is False in config.json"),
    ],
)
def test_another_network_in_config_json_is_refused(
    tmp_path: Path, found: dict[str, Any], configured: dict[str, Any], says: str
) -> None:
    merged = {key: value for key, value in (CONFIG | found).items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(merged))
    with pytest.raises(CheckpointError) as caught:
        check_config_json(tmp_path, tiny(**configured))
    assert says in caught.value.render()
    assert str(tmp_path / "config.json") in caught.value.render()


@pytest.mark.parametrize(
    "found",
    [
        {"rope_theta": 50000.0},  # transformers ignores it at the top level
        {"tie_word_embeddings": True},  # a head in the file is used
        {"max_position_embeddings": 4096},  # a shorter context is the user's choice
    ],
)
def test_what_changes_nothing_is_accepted(tmp_path: Path, found: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | found))
    assert check_config_json(tmp_path, TINY) == ()


def test_what_was_set_on_purpose_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"rotary_pct": 0.25}))
    (warning,) = check_config_json(tmp_path, TINY, chosen=True)
    assert "rotary share is 0.25 in config.json, rotary_pct is 0.5" in warning


@pytest.mark.parametrize("name", ["gpt_neox.rotary_emb.inv_freq", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"])
def test_buffers_of_all_generations(name: str) -> None:
    assert is_buffer(name)


def test_unreadable_config_json(tmp_path: Path) -> None:
    for text in ["", "{", "[1]", "\xff"]:
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(CheckpointError, match=r"config\.json"):
            check_config_json(tmp_path, TINY)
