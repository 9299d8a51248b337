"""GPT-NeoX written out plainly: fp64, one sequence, no cache, one loop over tensor-parallel ranks.

What the real network is compared with, where neither Hugging Face nor a stored answer has the option.
Nothing of neoxrun's network is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import TensorKey

Weights = Mapping[TensorKey, Tensor]


def logits(config: ModelConfig, shards: list[Weights], ids: list[int]) -> Tensor:
    """Scores after each token, ``[T, V]``.

    ``shards`` holds what each tensor-parallel rank has; a whole model is one shard. Each has its own norms.
    """
    layers, heads = config.num_layers, config.num_attention_heads // len(shards)
    ranks = [{key: tensor.double() for key, tensor in shard.items()} for shard in shards]
    embedding = torch.cat([rank[TensorKey(0, "word_embeddings.weight")] for rank in ranks])
    x = embedding[ids]
    if config.pos_emb == "learned":
        x = x + ranks[0][TensorKey(0, "position_embeddings.weight")][: len(ids)]
    turns = _turns(config, len(ids)) if config.pos_emb == "rotary" else None

    for layer in range(2, layers + 2):
        here = [{key.name: tensor for key, tensor in rank.items() if key.layer == layer} for rank in ranks]
        first, second = "input_layernorm", "post_attention_layernorm"
        attended = [_attention(w, _norm(w, first, x, config), heads, turns) for w in here]
        dense, out = "attention.dense", "mlp.dense_4h_to_h"
        if config.gpt_j_residual:
            normed = first if config.gpt_j_tied else second
            fed = [_mlp(w, _norm(w, normed, x, config), config) for w in here]
            biases = [w[f"{name}.bias"] for w in here for name in (dense, out) if f"{name}.bias" in w]
            x = sum(attended + fed + biases, start=x)
        else:
            x = sum(attended, start=x) + here[0].get(f"{dense}.bias", 0)
            fed = [_mlp(w, _norm(w, second, x, config), config) for w in here]
            x = sum(fed, start=x) + here[0].get(f"{out}.bias", 0)

    columns = []
    for rank in ranks:
        last = {key.name: tensor for key, tensor in rank.items() if key.layer == layers + 3}
        head = TensorKey(0, "word_embeddings.weight")
        if not config.tie_embeddings:
            head = TensorKey(layers + 4, "final_linear.weight")
        # A head has a bias where norms were folded into it.
        shift = rank.get(TensorKey(layers + 4, "final_linear.bias"), 0)
        columns.append(_norm(last, "norm", x, config) @ rank[head].T + shift)
    return torch.cat(columns, dim=1)


def greedy(config: ModelConfig, shards: list[Weights], ids: list[int], count: int) -> list[int]:
    """``count`` tokens after ``ids``, each the most likely."""
    text = list(ids)
    for _ in range(count):
        text.append(int(logits(config, shards, text)[-1].argmax()))
    return text[len(ids) :]


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def _norm(weights: Mapping[str, Tensor], name: str, x: Tensor, config: ModelConfig) -> Tensor:
    if config.norm == "rmsnorm":
        size = (x.square().mean(-1, keepdim=True) + config.norm_epsilon).sqrt()
        return x / size * weights[f"{name}.scale"]
    x = x - x.mean(-1, keepdim=True)
    size = (x.square().mean(-1, keepdim=True) + config.norm_epsilon).sqrt()
    return x / size * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _mlp(weights: Mapping[str, Tensor], x: Tensor, config: ModelConfig) -> Tensor:
    """Without the output's bias."""
    x = _linear(weights, "mlp.dense_h_to_4h", x)
    if config.gelu == "tanh":
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    else:
        x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    return x @ weights["mlp.dense_4h_to_h.weight"].T


def _attention(weights: Mapping[str, Tensor], x: Tensor, heads: int, turns: Tensor | None) -> Tensor:
    """Without the output's bias."""
    rows = _linear(weights, "attention.query_key_value", x).view(len(x), heads, 3, -1)
    outputs = []
    for head in range(heads):
        q, k, v = rows[:, head].unbind(1)
        if turns is not None:
            q, k = _turn(q, turns), _turn(k, turns)
        scores = q @ k.T / math.sqrt(q.shape[1])
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        outputs.append(scores.masked_fill(later, -torch.inf).softmax(-1) @ v)
    return torch.cat(outputs, dim=1) @ weights["attention.dense.weight"].T


def _turns(config: ModelConfig, length: int) -> Tensor:
    """``[T, R / 2]`` complex numbers, by which pairs of dims are turned."""
    dims = int(config.hidden_size // config.num_attention_heads * config.rotary_pct)
    frequencies = [config.rotary_emb_base ** (-2 * i / dims) for i in range(dims // 2)]
    size = 1.0
    if config.rope_scaling is not None:
        frequencies = [_scaled(one, i, config) for i, one in enumerate(frequencies)]
        size = config.rope_scaling.attention_factor
    if config.rotary_legacy_fp16:
        angles = np.outer(np.arange(length, dtype=np.float16), np.array(frequencies, dtype=np.float16))
        assert angles.dtype == np.float16
    else:
        angles = np.outer(np.arange(length), np.array(frequencies))
    return size * torch.complex(torch.tensor(np.cos(angles)).double(), torch.tensor(np.sin(angles)).double())


def _scaled(frequency: float, index: int, config: ModelConfig) -> float:
    """Linear: all frequencies are divided; YaRN: those of the dims in which few turns fit the original context."""
    scaling = config.rope_scaling
    if scaling.kind == "linear":
        return frequency / scaling.factor
    dims = int(config.hidden_size // config.num_attention_heads * config.rotary_pct)

    def dim_with(turns: float) -> float:
        period = scaling.original_max_position_embeddings / turns
        return dims / 2 * math.log(period / (2 * math.pi), config.rotary_emb_base)

    low, high = max(0, math.floor(dim_with(scaling.beta_fast))), min(dims - 1, math.ceil(dim_with(scaling.beta_slow)))
    divided = min(1.0, max(0.0, (index - low) / (high - low)))
    return frequency * (1 - divided) + frequency / scaling.factor * divided


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    """Dim ``i`` and dim ``i + R / 2`` are a point of the plane."""
    half = turns.shape[1]
    points = torch.complex(x[:, :half], x[:, half : 2 * half]) * turns
    return torch.cat((points.real, points.imag, x[:, 2 * half :]), dim=1)
