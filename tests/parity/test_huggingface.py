"""Hugging Face's files and network: GPT-NeoX's weights in it give GPT-NeoX's answers, and what it saves loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.huggingface import to_hugging_face_name
from neoxrun.checkpoint.load import read_vocab_rows
from neoxrun.checkpoint.writers import from_huggingface, save_layer_files
from neoxrun.config.tensors import TensorKey
from support.checkpoints import TINY, fixture_config, join, load_all, tiny
from support.hugging_face import twin
from support.paths import FIXTURES


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("tp1", "logits"),
        ("tp1_full_rotary_erf", "logits"),
        ("tp1_sequential_residual", "logits"),
        ("tp2_legacy_20b", "logits_merged"),
        ("tp2_native", "logits"),
    ],
)
def test_neox_weights_under_hugging_face_names_give_neox_logits(name: str, answer: str) -> None:
    """Names, merging, the layout of query_key_value: transformers computes what GPT-NeoX computed."""
    folder = FIXTURES / name
    config = fixture_config(folder)
    if name == "tp1_full_rotary_erf":
        config = tiny(**{**vars(config), "gelu": "erf"})
    (weights,) = load_all(folder, config, 1, merge="average" if answer == "logits_merged" else "fold")
    # Folded norms give the head a bias, which transformers has no name for.
    shift = weights.pop(TensorKey(config.num_layers + 4, "final_linear.bias"), torch.zeros(1))
    model = twin(config, 512)
    names = {to_hugging_face_name(key, config.num_layers).replace("embed_out", "lm_head"): key for key in weights}
    model.load_state_dict({name: weights[key] for name, key in names.items()})
    stored = load_file(folder / f"{answer}.safetensors")
    with torch.no_grad():
        logits = model(stored["input_ids"]).logits + shift
    torch.testing.assert_close(logits, stored["logits"], rtol=0, atol=1e-4)


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
    model = twin(config, 8)
    config_json = model.config.to_dict()
    state = model.state_dict()
    state["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    state["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    state["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(1)
    (tmp_path / "config.json").write_text(json.dumps(config_json))
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


def test_from_hugging_face_to_layer_files(tmp_path: Path) -> None:
    model = twin(TINY, 8)
    save_layer_files(from_huggingface(model.state_dict()), tmp_path, tp=2, config=TINY, tag="global_step1")
    loaded = join(load_all(tmp_path, TINY, 4), parallel_residual=True)
    for key, tensor in from_huggingface(model.state_dict()).items():
        assert torch.equal(loaded[key], tensor)


def test_another_gelu_is_a_warning_only(tmp_path: Path) -> None:
    twin(tiny(gelu="erf"), 8).save_pretrained(tmp_path)
    checkpoint = find_checkpoint(tmp_path, TINY)
    assert len(checkpoint.warnings) == 1
    assert "erf" in checkpoint.warnings[0]
    assert find_checkpoint(tmp_path, tiny(gelu="erf")).warnings == ()
