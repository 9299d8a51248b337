"""A folder alone, without YAML, gives transformers' answers: every family's options, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from neoxrun import LLM, SamplingParams
from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.config.reader import load_settings
from support.families import FAMILIES, make_folder, transformers_answer

PROMPT = "def main(argument):"
PARAMS = SamplingParams(maximum_tokens=12, temperature=0.0, logprobs=0, ignore_eos=True)


def check_answer(folder: Path) -> None:
    with LLM(str(folder), device="cpu", dtype="fp32") as llm:
        prompt = llm.tokenizer.encode(PROMPT)
        (record,) = llm.generate([PROMPT], PARAMS)
    tokens, scores = transformers_answer(folder, prompt, PARAMS.maximum_tokens)
    found = json.loads(record.to_json())
    assert found["tokens"] == tokens
    assert len(set(tokens)) > 1, "an answer that says something"
    torch.testing.assert_close([one["logprob"] for one in found["logprobs"]], scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    check_answer(make_folder(tmp_path / "model", family))


def test_a_tied_model_whose_file_has_another_head(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", "tied")
    tensors = load_file(folder / "model.safetensors")
    head = tensors["gpt_neox.embed_in.weight"].flip(0).contiguous()
    save_file({**tensors, "embed_out.weight": head}, folder / "model.safetensors", {"format": "pt"})
    check_answer(folder)


def test_a_tied_model_whose_file_has_the_head_only(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", "tied")
    tensors = load_file(folder / "model.safetensors")
    tensors["embed_out.weight"] = tensors.pop("gpt_neox.embed_in.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    check_answer(folder)


def test_buffers_of_earlier_versions_are_ignored(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", "pythia")
    tensors = load_file(folder / "model.safetensors")
    tensors["gpt_neox.rotary_emb.inv_freq"] = torch.full((2,), 7.0)
    tensors["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.full((2,), 7.0)
    tensors["gpt_neox.layers.1.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    check_answer(folder)


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "pytorch_model.fp16.bin"])
def test_a_variant_alone(name: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", "dolly-v2")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save = torch.save if name.endswith(".bin") else save_file
    save(tensors, folder / name)
    assert [path.name for path in find_configured_checkpoint(load_settings([str(folder)])).files] == [name]
    with LLM(str(folder), device="cpu", dtype="fp32") as llm:
        (found,) = llm.generate([PROMPT], PARAMS)
    assert found.length == PARAMS.maximum_tokens
