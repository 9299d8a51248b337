"""Hugging Face's GPT-NeoX folders: their tensor names, and whether their config.json says what our
configuration says.

Rows of query_key_value lie per head as ``[q | k | v]`` there too: only the names differ. No torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import IGNORED, TensorKey
from neoxrun.errors import CheckpointError

_LAYER = re.compile(r"gpt_neox\.layers\.(\d+)\.(.+)")
_GELU = {"gelu": "erf", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu_pytorch_tanh": "tanh"}


def to_key(name: str, num_layers: int) -> TensorKey | None:
    """The tensor that Hugging Face calls ``name``; None when a GPT-NeoX model has no such tensor."""
    if match := _LAYER.fullmatch(name):
        return TensorKey(int(match[1]) + 2, match[2]) if int(match[1]) < num_layers else None
    return {
        "gpt_neox.embed_in.weight": TensorKey(0, "word_embeddings.weight"),
        "gpt_neox.final_layer_norm.weight": TensorKey(num_layers + 3, "norm.weight"),
        "gpt_neox.final_layer_norm.bias": TensorKey(num_layers + 3, "norm.bias"),
        "embed_out.weight": TensorKey(num_layers + 4, "final_linear.weight"),
        "lm_head.weight": TensorKey(num_layers + 4, "final_linear.weight"),
    }.get(name)


def to_name(key: TensorKey, num_layers: int) -> str:
    """Hugging Face's name, as in its files, of a tensor that ``to_key`` gives.

    Raises:
        KeyError: Hugging Face's model has no such tensor.
    """
    if 2 <= key.layer < num_layers + 2:
        return f"gpt_neox.layers.{key.layer - 2}.{key.name}"
    return {
        TensorKey(0, "word_embeddings.weight"): "gpt_neox.embed_in.weight",
        TensorKey(num_layers + 3, "norm.weight"): "gpt_neox.final_layer_norm.weight",
        TensorKey(num_layers + 3, "norm.bias"): "gpt_neox.final_layer_norm.bias",
        TensorKey(num_layers + 4, "final_linear.weight"): "embed_out.weight",
    }[key]


def count_layers(names: Iterable[str]) -> int:
    """How many transformer layers a model with tensors of these names has."""
    return max((int(match[1]) + 1 for name in names if (match := _LAYER.fullmatch(name))), default=0)


def is_buffer(name: str) -> bool:
    """Whether ``name`` is one of the buffers that are recomputed instead of read."""
    match = _LAYER.fullmatch(name)
    return match is not None and match[2] in IGNORED


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {path.name}: {error}", code="unreadable_checkpoint", where=str(path)
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} does not hold a JSON object", code="damaged_file", where=str(path))
    return value


def _rotary(theirs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Share, base and type of the rotary embedding, as transformers 4 and 5 spell them."""
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    share = rope.get("partial_rotary_factor", theirs.get("rotary_pct", theirs.get("partial_rotary_factor", 0.25)))
    base = rope.get("rope_theta", theirs.get("rotary_emb_base", theirs.get("rope_theta", 10000)))
    return share, base, rope.get("rope_type", rope.get("type", "default"))


def _same(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return math.isclose(theirs, ours, rel_tol=1e-6)
    return bool(theirs == ours)


def check_config(folder: Path, config: ModelConfig) -> str | None:
    """Compare a folder's config.json with our configuration. Absent keys have transformers' defaults.

    Returns:
        A warning when only the form of GELU differs (published Pythia folders say ``gelu`` although the
        models were trained with the tanh form; the configuration decides), else None.

    Raises:
        CheckpointError: they describe different networks.
    """
    path = folder / "config.json"
    theirs = read_json(path)
    if theirs.get("model_type") != "gpt_neox":
        raise CheckpointError(
            f"config.json describes a model of type {theirs.get('model_type')!r}, not 'gpt_neox'",
            code="unsupported_checkpoint",
            where=str(path),
        )
    share, base, kind = _rotary(theirs)
    table: list[tuple[str, Any, str, Any]] = [
        ("num_hidden_layers", theirs.get("num_hidden_layers", 44), "num_layers", config.num_layers),
        ("hidden_size", theirs.get("hidden_size", 6144), "hidden_size", config.hidden_size),
        (
            "num_attention_heads",
            theirs.get("num_attention_heads", 64),
            "num_attention_heads",
            config.num_attention_heads,
        ),
        (
            "intermediate_size",
            theirs.get("intermediate_size", 24576),
            "intermediate_size",
            config.intermediate_size,
        ),
        (
            "use_parallel_residual",
            theirs.get("use_parallel_residual", True),
            "gpt_j_residual",
            config.gpt_j_residual,
        ),
        (
            "tie_word_embeddings",
            theirs.get("tie_word_embeddings", False),
            "weight tying",
            config.tie_embeddings,
        ),
        (
            "attention_bias",
            theirs.get("attention_bias", True),
            "use_bias_in_attn_linear",
            config.use_bias_in_attn_linear,
        ),
        ("layer_norm_eps", theirs.get("layer_norm_eps", 1e-5), "layernorm_epsilon", config.norm_epsilon),
        ("rotary share", share, "rotary_pct", config.rotary_pct),
        ("rotary base", base, "rotary_emb_base", config.rotary_emb_base),
        ("rotary type", kind, "rotary type", "default"),
        # These are fixed in Hugging Face's network.
        ("position embedding", "rotary", "pos_emb", config.pos_emb),
        ("norm", "layernorm", "norm", config.norm),
        ("gpt_j_tied", False, "gpt_j_tied", config.gpt_j_tied),
    ]
    differences = [
        f"{their_name} is {their_value} there, {our_name} is {our_value} in the configuration"
        for their_name, their_value, our_name, our_value in table
        if not _same(their_value, our_value)
    ]
    if differences:
        raise CheckpointError(
            "config.json and the configuration describe different networks: " + "; ".join(differences),
            code="mismatched_configuration",
            where=str(path),
            hint="use the configuration that belongs to this model, or another folder with --checkpoint DIR",
        )
    activation = theirs.get("hidden_act", "gelu")
    if activation not in _GELU:
        raise CheckpointError(
            f"config.json asks for the activation {activation!r}; GPT-NeoX uses GELU",
            code="unsupported_checkpoint",
            where=str(path),
        )
    if _GELU[activation] != config.gelu:
        return (
            f"{path} says hidden_act {activation} (the {_GELU[activation]} form of GELU), the configuration "
            f"says the {config.gelu} form: the configuration is followed"
        )
    return None
