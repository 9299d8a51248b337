"""A repository with several revisions of a tiny model, on a hub of the tests, and its evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from support.command import Running
from support.download_command import environment
from support.hub_server import HubRepository, HubServer
from support.paths import DEMO

NAME = "lab/tiny"
ROWS = 2048
_CONFIG = """
num_layers: 1
hidden_size: 32
num_attention_heads: 2
seq_length: 64
max_position_embeddings: 64
pos_emb: rotary
no_weight_tying: true
gpt_j_residual: true
tokenizer_type: HFTokenizer
"""

_NETWORK = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "hidden_act": "gelu",
    "hidden_size": 32,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "vocab_size": ROWS,
}


def weights(seed: int) -> bytes:
    """A model.safetensors for the configuration that ``write_config`` writes."""
    shapes = {
        "gpt_neox.embed_in.weight": (ROWS, 32),
        "gpt_neox.layers.0.input_layernorm.weight": (32,),
        "gpt_neox.layers.0.input_layernorm.bias": (32,),
        "gpt_neox.layers.0.post_attention_layernorm.weight": (32,),
        "gpt_neox.layers.0.post_attention_layernorm.bias": (32,),
        "gpt_neox.layers.0.attention.query_key_value.weight": (96, 32),
        "gpt_neox.layers.0.attention.query_key_value.bias": (96,),
        "gpt_neox.layers.0.attention.dense.weight": (32, 32),
        "gpt_neox.layers.0.attention.dense.bias": (32,),
        "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": (128, 32),
        "gpt_neox.layers.0.mlp.dense_h_to_4h.bias": (128,),
        "gpt_neox.layers.0.mlp.dense_4h_to_h.weight": (32, 128),
        "gpt_neox.layers.0.mlp.dense_4h_to_h.bias": (32,),
        "gpt_neox.final_layer_norm.weight": (32,),
        "gpt_neox.final_layer_norm.bias": (32,),
        "embed_out.weight": (ROWS, 32),
    }
    generator = torch.Generator().manual_seed(seed)
    return save({name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()})


def repository(**seeds: int) -> HubRepository:
    """A repository with these revisions, each with the weights of its seed."""
    tokenizer = (DEMO / "tokenizer.json").read_bytes()
    shared = {"tokenizer.json": tokenizer, "config.json": json.dumps(_NETWORK).encode()}
    return HubRepository({name: {**shared, "model.safetensors": weights(seed)} for name, seed in seeds.items()})


def weights_at(revision: str) -> str:
    """The name under which the hub's other host has the weights of a revision."""
    return f"{hashlib.sha1(revision.encode()).hexdigest()}/model.safetensors"


def write_config(folder: Path) -> Path:
    """The configuration of the tiny model, which names neither weights nor a tokenizer."""
    path = folder / "tiny.yml"
    path.write_text(_CONFIG, encoding="utf-8")
    return path


def evaluating(
    server: HubServer, folder: Path, tasks: Path, *arguments: object, names: Sequence[str] = ("colours",)
) -> Running:
    """`neoxrun evaluate tiny.yml --repo lab/tiny` under way in a folder, on the tasks of these names in ``tasks``."""
    words = ("evaluate", write_config(folder), "--repo", NAME, "--tasks", *names, "--include-path", tasks)
    return Running(*words, *arguments, cwd=folder, env=environment(folder, HF_ENDPOINT=server.url))
