"""Hugging Face's GPT-NeoX folders: their tensor names, and whether config.json agrees with the configuration.

As in GPT-NeoX, the rows of query_key_value are ``[q | k | v]`` head by head: only the names differ. No torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neoxrun.config.rope import describe_rope_scaling, read_rope_scaling
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import IGNORED, TensorKey
from neoxrun.errors import CheckpointError

_LAYER = re.compile(r"gpt_neox\.layers\.(\d+)\.(.+)")
_GELU = {"gelu": "erf", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu_pytorch_tanh": "tanh"}


def to_tensor_key(name: str, num_layers: int) -> TensorKey | None:
    """The key of the tensor that Hugging Face calls ``name``; None if a GPT-NeoX model has no such tensor."""
    if match := _LAYER.fullmatch(name):
        return TensorKey(int(match[1]) + 2, match[2]) if int(match[1]) < num_layers else None
    return {
        "gpt_neox.embed_in.weight": TensorKey(0, "word_embeddings.weight"),
        "gpt_neox.final_layer_norm.weight": TensorKey(num_layers + 3, "norm.weight"),
        "gpt_neox.final_layer_norm.bias": TensorKey(num_layers + 3, "norm.bias"),
        "embed_out.weight": TensorKey(num_layers + 4, "final_linear.weight"),
        "lm_head.weight": TensorKey(num_layers + 4, "final_linear.weight"),
    }.get(name)


def to_hugging_face_name(key: TensorKey, num_layers: int) -> str:
    """The name in Hugging Face's files of a tensor of a GPT-NeoX model.

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
    """Number of transformer layers of a model whose tensors have these names."""
    return max((int(match[1]) + 1 for name in names if (match := _LAYER.fullmatch(name))), default=0)


def is_buffer(name: str) -> bool:
    """Whether ``name`` is one of the buffers that are recomputed instead of read."""
    match = _LAYER.fullmatch(name)
    return match is not None and match[2] in IGNORED


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        CheckpointError: the file cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {path.name}: {error}",
            code="unreadable_checkpoint",
            where=str(path),
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} does not hold a JSON object", code="damaged_file", where=str(path))
    return value


def _rotary(content: Mapping[str, Any]) -> tuple[Any, Any]:
    """Share and base of the rotary embedding, as transformers 4 and 5 write them."""
    rope = content.get("rope_scaling") or content.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", content.get("rotary_pct", content.get("partial_rotary_factor", 0.25)))
    base = rope.get("rope_theta", content.get("rotary_emb_base", content.get("rope_theta", 10000)))
    return share, base


def _same(found: Any, configured: Any) -> bool:
    if isinstance(configured, float) and isinstance(found, int | float):
        return math.isclose(found, configured, rel_tol=1e-6)
    return bool(found == configured)


def _check_rope_scaling(content: Mapping[str, Any], config: ModelConfig, path: Path) -> None:
    found = read_rope_scaling(content, str(path))
    if found == config.rope_scaling:
        return
    wanted = json.dumps(content.get("rope_scaling") or content.get("rope_parameters"))
    raise CheckpointError(
        f"config.json and the configuration scale rotary positions differently: {describe_rope_scaling(found)} in "
        f"config.json, {describe_rope_scaling(config.rope_scaling)} in the configuration",
        code="mismatched_configuration",
        where=str(path),
        hint=f"Set rope_scaling as config.json has it: --set 'rope_scaling={'null' if found is None else wanted}'.",
    )


def check_config_json(folder: Path, config: ModelConfig) -> str | None:
    """Compare a folder's config.json with the configuration. Absent keys have transformers' defaults.

    Returns:
        A warning if only the form of GELU differs, else None. (Published Pythia folders say ``gelu`` although the
        models were trained with the tanh form; the configuration decides.)

    Raises:
        CheckpointError: they describe different networks.
    """
    path = folder / "config.json"
    content = read_json(path)
    if content.get("model_type") != "gpt_neox":
        raise CheckpointError(
            f"config.json describes a model of type {content.get('model_type')!r}, not 'gpt_neox'",
            code="unsupported_checkpoint",
            where=str(path),
        )
    defaults: list[tuple[str, Any, str, Any]] = [
        ("num_hidden_layers", 44, "num_layers", config.num_layers),
        ("hidden_size", 6144, "hidden_size", config.hidden_size),
        ("num_attention_heads", 64, "num_attention_heads", config.num_attention_heads),
        ("intermediate_size", 24576, "intermediate_size", config.intermediate_size),
        ("use_parallel_residual", True, "gpt_j_residual", config.gpt_j_residual),
        ("tie_word_embeddings", False, "weight tying", config.tie_embeddings),
        ("attention_bias", True, "use_bias_in_attn_linear", config.use_bias_in_attn_linear),
        ("layer_norm_eps", 1e-5, "layernorm_epsilon", config.norm_epsilon),
    ]
    _check_rope_scaling(content, config, path)
    share, base = _rotary(content)
    table: list[tuple[str, Any, str, Any]] = [
        *((name, content.get(name, default), key, value) for name, default, key, value in defaults),
        ("rotary share", share, "rotary_pct", config.rotary_pct),
        ("rotary base", base, "rotary_emb_base", config.rotary_emb_base),
        # These are fixed in Hugging Face's network.
        ("position embedding", "rotary", "pos_emb", config.pos_emb),
        ("norm", "layernorm", "norm", config.norm),
        ("gpt_j_tied", False, "gpt_j_tied", config.gpt_j_tied),
    ]
    differences = [
        f"{name} is {found} in config.json, {key} is {value} in the configuration"
        for name, found, key, value in table
        if not _same(found, value)
    ]
    if differences:
        raise CheckpointError(
            "config.json and the configuration describe different networks: " + "; ".join(differences),
            code="mismatched_configuration",
            where=str(path),
            hint="Use the configuration that belongs to this model, or name another folder with --checkpoint DIR.",
        )
    activation = content.get("hidden_act", "gelu")
    if activation not in _GELU:
        raise CheckpointError(
            f"config.json asks for the activation {activation!r}, but GPT-NeoX uses GELU",
            code="unsupported_checkpoint",
            where=str(path),
        )
    if _GELU[activation] != config.gelu:
        return (
            f"hidden_act {activation} in {path} is the {_GELU[activation]} form of GELU, but the configuration has the "
            f"{config.gelu} form, which is used"
        )
    return None
