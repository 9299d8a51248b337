"""A config.json without a number format leaves it to the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from neoxrun.checkpoint.stored import use_stored
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Precision
from neoxrun.model.dtypes import DTYPES

NETWORK = GPTNeoXConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)


def made(folder: Path, dtype: torch.dtype, name: str, **changes: Any) -> Path:
    """A folder that transformers wrote, with weights of ``dtype``; changes of None take keys out of config.json."""
    GPTNeoXForCausalLM(NETWORK).to(dtype).save_pretrained(folder)
    if name == "pytorch_model.bin":
        state = GPTNeoXForCausalLM.from_pretrained(folder, dtype=dtype).state_dict()
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / name)
    path = folder / "config.json"
    content = json.loads(path.read_text()) | {"dtype": None} | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


def precision(folder: Path, *overrides: str) -> Precision:
    return use_stored(load_settings([str(folder)], list(overrides))).precision


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_weights_decide_as_in_transformers(dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    folder = made(tmp_path, dtype, name)
    expected = AutoModelForCausalLM.from_pretrained(folder).dtype
    assert expected == dtype
    assert DTYPES[precision(folder)] == (torch.float32 if dtype == torch.float64 else expected)


def test_whatever_states_a_format_wins(tmp_path: Path) -> None:
    assert precision(made(tmp_path / "stated", torch.float16, "", torch_dtype="float32")) == "fp32"
    folder = made(tmp_path / "not", torch.float16, "")
    assert precision(folder, "precision=bf16") == "bf16"
    assert precision(folder, "fp16={enabled: false}") == "fp32"


def test_yaml_without_a_format_is_fp32_as_in_gpt_neox(tmp_path: Path) -> None:
    folder = made(tmp_path / "hf", torch.float16, "")
    options = {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "seq_length": 8, "load": str(folder)}
    (tmp_path / "a.yml").write_text(json.dumps({**options, "max_position_embeddings": 8, "pos_emb": "rotary"}))
    assert use_stored(load_settings([str(tmp_path / "a.yml")])).precision == "fp32"


def test_damaged_and_foreign_files_change_nothing(tmp_path: Path) -> None:
    folder = made(tmp_path, torch.float16, "")
    for content in (b"", b"\xff" * 64, (2).to_bytes(8, "little") + b"{}"):
        (folder / "model.safetensors").write_bytes(content)
        assert precision(folder) == "fp32"
    (folder / "model.safetensors").unlink()
    assert precision(folder) == "fp32"
    save_file({"gpt_neox.embed_in.weight": torch.ones(2, 2, dtype=torch.int8)}, folder / "model.safetensors")
    assert precision(folder) == "fp32", "no tensor of a format that weights can have"
