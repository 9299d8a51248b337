"""Hugging Face's GPT-NeoX folders: their tensor names, and whether config.json agrees with the configuration.

As in GPT-NeoX, the rows of query_key_value are ``[q | k | v]`` head by head: only the names differ. No torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neoxrun.config.huggingface import CONFIG_JSON, read_config_json
from neoxrun.config.rope import describe_rope_scaling, read_rope_scaling
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import IGNORED, TensorKey
from neoxrun.errors import CheckpointError, ConfigError

_LAYER = re.compile(r"gpt_neox\.layers\.(\d+)\.(.+)")
# transformers has kept the angles' buffer of the whole model, and of each layer, at times; it ignores both in a file.
_MODEL_BUFFER = re.compile(r"gpt_neox\.rotary_emb\.\w+")


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
    return match[2] in IGNORED if match is not None else _MODEL_BUFFER.fullmatch(name) is not None


def _same(found: Any, configured: Any) -> bool:
    if isinstance(configured, float) and isinstance(found, int | float):
        return math.isclose(found, configured, rel_tol=1e-6)
    return bool(found == configured)


def check_config_json(folder: Path, config: ModelConfig, *, chosen: bool = False) -> tuple[str, ...]:
    """Compare a folder's config.json with the configuration. Absent keys have transformers' defaults.

    Args:
        folder: of the checkpoint.
        config: the network that the configuration describes.
        chosen: the configuration comes from this config.json, so that what differs was set on purpose.

    Returns:
        Warnings: the form of GELU differs (published Pythia folders say ``gelu`` although the models were trained with
        the tanh form; the configuration decides), or what was set on purpose.

    Raises:
        CheckpointError: they describe different networks, or config.json one that is not supported.
    """
    path = folder / CONFIG_JSON
    config_json = read_config_json(folder)
    options = config_json.options
    context = options["max_position_embeddings"]
    table: list[tuple[str, Any, str, Any]] = [
        ("num_hidden_layers", options["num_layers"], "num_layers", config.num_layers),
        ("hidden_size", options["hidden_size"], "hidden_size", config.hidden_size),
        ("num_attention_heads", options["num_attention_heads"], "num_attention_heads", config.num_attention_heads),
        ("intermediate_size", options["intermediate_size"], "intermediate_size", config.intermediate_size),
        ("use_parallel_residual", options["gpt_j_residual"], "gpt_j_residual", config.gpt_j_residual),
        (
            "attention_bias",
            options["use_bias_in_attn_linear"],
            "use_bias_in_attn_linear",
            config.use_bias_in_attn_linear,
        ),
        ("layer_norm_eps", options["layernorm_epsilon"], "layernorm_epsilon", config.norm_epsilon),
        ("rotary share", options["rotary_pct"], "rotary_pct", config.rotary_pct),
        ("rotary base", options["rotary_emb_base"], "rotary_emb_base", config.rotary_emb_base),
        # These are fixed in Hugging Face's network.
        ("position embedding", "rotary", "pos_emb", config.pos_emb),
        ("norm", "layernorm", "norm", config.norm),
        ("gpt_j_tied", False, "gpt_j_tied", config.gpt_j_tied),
    ]
    # A head in the file is used whatever config.json says of tying (checkpoint.head).
    if config.tie_embeddings and options["no_weight_tying"]:
        table.append(("tie_word_embeddings", False, "weight tying", True))
    # A shorter context is the user's choice; beyond its positions the model has learnt nothing.
    if isinstance(context, int) and config.max_context > context:
        table.append(("max_position_embeddings", context, "seq_length", config.max_context))
    hint = (
        "Use the configuration that belongs to this model, or name another folder with --checkpoint DIR. The folder "
        "itself in place of the configuration runs the model as config.json says."
    )
    scaling, unsupported = None, []
    try:
        scaling = read_rope_scaling(options, str(path), config_json.keys["rope_scaling"])
    except ConfigError as error:
        if not chosen:
            raise
        unsupported = [error.message]
    if not unsupported and scaling != config.rope_scaling:
        found, configured = map(describe_rope_scaling, (scaling, config.rope_scaling))
        table.append(("rotary scaling", found, "rope_scaling", configured))
        wanted = "null" if scaling is None else json.dumps(options["rope_scaling"])
        hint = (
            f"Set rope_scaling as config.json has it: --set 'rope_scaling={wanted}'. Or name the folder itself instead "
            "of the configuration."
        )
    differences = unsupported + [
        f"{name} is {found} in config.json, {key} is {value} in the configuration"
        for name, found, key, value in table
        if not _same(found, value)
    ]
    if differences and not chosen:
        raise CheckpointError(
            "config.json and the configuration describe different networks: " + "; ".join(differences),
            code="mismatched_configuration",
            where=str(path),
            hint=hint,
        )
    form = "tanh" if options["bias_gelu_fusion"] else "erf"
    warnings = [f"{path} is overridden: {'; '.join(differences)}"] if differences else []
    if form != config.gelu:
        warnings.append(
            f"hidden_act in {path} is the {form} form of GELU, but the configuration has the {config.gelu} form, "
            "which is used"
        )
    return tuple(warnings)
