"""Tiny Hugging Face folders with the exact options of published NeoX models, and transformers' answers on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from support.paths import DEMO

# What the models have in common, but for their sizes.
_COMMON = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 96,
    "vocab_size": 2176,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "tie_word_embeddings": False,
    "use_cache": True,
    "torch_dtype": "float16",
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_SEQUENTIAL = {"use_parallel_residual": False, "rotary_pct": 1.0}

FAMILIES: dict[str, dict[str, Any]] = {
    "pythia": {"use_parallel_residual": True},
    "gpt-neox-20b": {"hidden_act": "gelu_fast", "attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0},
    "dolly-v2": {"custom_pipelines": {"text-generation": {}}, "torch_dtype": "bfloat16", "use_parallel_residual": True},
    "redpajama-incite and open-calm": {**_SEQUENTIAL, "transformers_version": "4.27.0.dev0"},
    "stablelm-base-alpha": {"use_parallel_residual": True, "max_position_embeddings": 128},
    "rinna and line": {
        **_SEQUENTIAL,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "vocab_size": 2200,
        "intermediate_size": 250,
    },
    "polyglot-ko": {"use_parallel_residual": True, "rotary_pct": 0.5, "vocab_size": 2080, "eos_token_id": 2},
    "transformers 4.48": {
        "rope_theta": 10000,
        "partial_rotary_factor": 0.25,
        "rope_scaling": None,
        "attention_bias": True,
    },
    "transformers 5": {
        "rotary_pct": None,
        "rotary_emb_base": None,
        "torch_dtype": None,
        "dtype": "float32",
        "rope_parameters": {"rope_theta": 5000.0, "partial_rotary_factor": 0.5, "rope_type": "default"},
        "attention_bias": False,
        "hidden_act": "gelu_python_tanh",
    },
    "head_dim": {"head_dim": 32, "hidden_act": "gelu_accurate"},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 24},
    "tied": {"tie_word_embeddings": True},
}


def make_folder(folder: Path, family: str) -> Path:
    """A folder as the family's is on the hub: weights (in fp32), its config.json, a tokenizer."""
    content = {key: value for key, value in (_COMMON | FAMILIES[family]).items() if value is not None}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(content))
    config = GPTNeoXConfig.from_pretrained(folder)
    config.initializer_range = 0.3  # with the published 0.02, a tiny model repeats one token
    torch.manual_seed(0)
    GPTNeoXForCausalLM(config).float().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(content))  # not as this version of transformers writes it
    (folder / "generation_config.json").unlink(missing_ok=True)
    shutil.copyfile(DEMO / "tokenizer.json", folder / "tokenizer.json")
    return folder


@torch.no_grad()
def transformers_answer(folder: Path, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """The most likely next ``count`` tokens, one by one, and their log-probabilities, in fp32."""
    model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids, scores = list(prompt), []
    for _ in range(count):
        best = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).max(-1)
        ids.append(int(best.indices))
        scores.append(float(best.values))
    return ids[len(prompt) :], scores
