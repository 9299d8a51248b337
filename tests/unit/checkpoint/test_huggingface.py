"""Hugging Face folders: names in both directions, shards, and configurations that disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.huggingface import check_config_json, to_hugging_face_name, to_tensor_key
from neoxrun.checkpoint.load import read_vocab_rows
from neoxrun.checkpoint.writers import from_huggingface, save_layer_files
from neoxrun.errors import CheckpointError
from support.checkpoints import TINY, join, load_all, random_model, tiny
from support.hugging_face import twin

CONFIG = {
    "model_type": "gpt_neox",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu_fast",
    "rotary_pct": 0.5,
}


@pytest.mark.parametrize("shards", [1, "many"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"gpt_j_residual": False, "gelu": "erf"}, {"tie_embeddings": True}],
    ids=["parallel", "erf", "tied"],
)
def test_what_transformers_saves_loads_at_any_size(tmp_path: Path, changes: dict[str, Any], shards: int | str) -> None:
    config = tiny(**changes)
    model = twin(config, 51)
    model.save_pretrained(tmp_path, max_shard_size="8KB" if shards == "many" else "1GB")
    checkpoint = find_checkpoint(tmp_path, config)
    assert checkpoint.kind == "huggingface"
    assert (len(checkpoint.files) > 2) == (shards == "many")
    assert checkpoint.total_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert read_vocab_rows(checkpoint, config) == 51
    expected = from_huggingface(model.state_dict())
    for tp in (1, 2, 4):
        loaded = join(load_all(tmp_path, config, tp, pp=2), parallel_residual=config.gpt_j_residual)
        assert loaded.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(loaded[key][: tensor.shape[0]], tensor), key


@pytest.mark.parametrize("sharded", [False, True])
def test_pickled_folders_load_too(tmp_path: Path, sharded: bool) -> None:
    config = tiny(tie_embeddings=True)
    state = twin(config, 8).state_dict()
    state["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    state["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    state["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(1)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
    if sharded:
        names = [f"pytorch_model-{n:05d}-of-00002.bin" for n in (1, 2)]
        halves = [dict(list(state.items())[n::2]) for n in range(2)]
        for name, half in zip(names, halves, strict=True):
            torch.save(half, tmp_path / name)
        index = {key: name for name, half in zip(names, halves, strict=True) for key in half}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    else:
        torch.save(state, tmp_path / "pytorch_model.bin")
    (loaded,) = load_all(tmp_path, config, 1)
    expected = from_huggingface(state)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_names_convert_in_both_directions() -> None:
    for key in random_model(TINY, 8):
        assert to_tensor_key(to_hugging_face_name(key, TINY.num_layers), TINY.num_layers) == key
    assert to_tensor_key("transformer.h.0.weight", 2) is None


def test_from_hugging_face_to_layer_files(tmp_path: Path) -> None:
    model = twin(TINY, 8)
    save_layer_files(from_huggingface(model.state_dict()), tmp_path, tp=2, config=TINY, tag="global_step1")
    loaded = join(load_all(tmp_path, TINY, 4), parallel_residual=True)
    for key, tensor in from_huggingface(model.state_dict()).items():
        assert torch.equal(loaded[key], tensor)
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
        ({"rope_scaling": {"type": "linear", "factor": 2}}, {}, "rotary type is linear"),
        ({"layer_norm_eps": 1e-6}, {}, "layer_norm_eps is 1e-06 in config.json, layernorm_epsilon is 1e-05"),
        ({"tie_word_embeddings": True}, {}, "tie_word_embeddings is True in config.json, weight tying is False"),
        ({"num_attention_heads": 2}, {}, "num_attention_heads is 2 in config.json, num_attention_heads is 4"),
        ({"num_hidden_layers": 3}, {}, "num_hidden_layers is 3 in config.json, num_layers is 2"),
        ({"attention_bias": False}, {}, "attention_bias is False"),
        ({"model_type": "llama"}, {}, "a model of type 'llama'"),
        ({"hidden_act": "relu"}, {}, "the activation 'relu'"),
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


def test_another_gelu_is_a_warning_only(tmp_path: Path) -> None:
    twin(tiny(gelu="erf"), 8).save_pretrained(tmp_path)
    checkpoint = find_checkpoint(tmp_path, TINY)
    assert len(checkpoint.warnings) == 1
    assert "erf" in checkpoint.warnings[0]
    assert find_checkpoint(tmp_path, tiny(gelu="erf")).warnings == ()


def test_unreadable_config_json(tmp_path: Path) -> None:
    for text in ["", "{", "[1]", "\xff"]:
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(CheckpointError, match=r"config\.json"):
            check_config_json(tmp_path, TINY)
