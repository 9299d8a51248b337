"""A Hugging Face config.json as GPT-NeoX's options, read as transformers 5 reads it for ``gpt_neox``. No torch.

transformers takes what is absent from ``GPTNeoXConfig``, so its defaults are here. It reads the base and the share of
the rotary embedding from ``rope_scaling`` or ``rope_parameters``, then from ``rotary_emb_base`` and ``rotary_pct``; a
top-level ``rope_theta`` or ``partial_rotary_factor`` has no effect there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from neoxrun.config.json_file import read_json_object
from neoxrun.errors import CheckpointError
from neoxrun.terminal.words import listing

CONFIG_JSON: Final = "config.json"
"""The file's name."""

GELU: Final[Mapping[str, Literal["erf", "tanh"]]] = {
    "gelu": "erf",
    "gelu_python": "erf",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_accurate": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_python_tanh": "tanh",
}
"""transformers' names of GELU, and which of its two forms each computes."""

_PRECISIONS: Final = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp32"}

# Key of config.json -> GPT-NeoX's option, and what GPTNeoXConfig has where the key is absent.
_SAME: Final[Mapping[str, tuple[str, object]]] = {
    "num_hidden_layers": ("num_layers", 44),
    "hidden_size": ("hidden_size", 6144),
    "num_attention_heads": ("num_attention_heads", 64),
    "intermediate_size": ("intermediate_size", 24576),
    "layer_norm_eps": ("layernorm_epsilon", 1e-5),
    "use_parallel_residual": ("gpt_j_residual", True),
    "attention_bias": ("use_bias_in_attn_linear", True),
    "max_position_embeddings": ("max_position_embeddings", 2048),
    "vocab_size": ("make_vocab_size_divisible_by", 50432),
}
READ_KEYS: Final = frozenset(
    {*_SAME, "model_type", "hidden_act", "tie_word_embeddings", "rotary_pct", "rotary_emb_base", "rope_parameters"}
    | {"rope_scaling", "head_dim", "dtype", "torch_dtype", "eos_token_id", "quantization_config"}
)
"""The keys of config.json that are read; without the others transformers' network computes the same."""

# Who runs quantised weights, by transformers' `quant_method`.
_RUNS: Final = {
    "gptq": "vLLM, or transformers with gptqmodel, runs these files",
    "awq": "vLLM, or transformers with autoawq, runs these files",
    "bitsandbytes": "transformers with bitsandbytes runs these files",
}


@dataclass(frozen=True)
class HuggingFaceConfig:
    """A config.json.

    Attributes:
        options: GPT-NeoX's options that describe the same network; all that describe one are set. ``precision`` is
            missing where config.json leaves it to the weights.
        keys: what config.json calls an option, where that is another name.
        passed_over: the keys that are not read, sorted.
    """

    options: Mapping[str, object]
    keys: Mapping[str, str]
    passed_over: tuple[str, ...]


def read_config_json(folder: Path) -> HuggingFaceConfig:
    """The network that a folder's config.json describes.

    Raises:
        CheckpointError: the file is damaged, or describes another network than transformers' ``gpt_neox``, or a
            quantised one.
    """
    path = folder / CONFIG_JSON
    content = read_json(path)
    if content.get("model_type") != "gpt_neox":
        raise _unsupported(path, f"describes a model of type {content.get('model_type')!r}, not 'gpt_neox'")
    if content.get("quantization_config"):
        raise quantised_error(path, _method(content["quantization_config"]))
    activation = content.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in GELU:
        raise _unsupported(path, f"asks for hidden_act {activation!r}, but GPT-NeoX uses GELU")
    options: dict[str, object] = {option: content.get(key, default) for key, (option, default) in _SAME.items()}
    share, base, scaling = _rotary(content, path)
    options |= {
        "seq_length": options["max_position_embeddings"],
        "pos_emb": "rotary",
        "rotary_pct": share,
        "rotary_emb_base": base,
        "rope_scaling": scaling,
        "norm": "layernorm",
        "gpt_j_tied": False,
        "bias_gelu_fusion": GELU[activation] == "tanh",
        "no_weight_tying": not content.get("tie_word_embeddings", False),
        "model_parallel_size": 1,
    }
    if (precision := _precision(content, path)) is not None:
        options["precision"] = precision
    return HuggingFaceConfig(options, _keys(content), tuple(sorted(content.keys() - READ_KEYS)))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, a file that describes weights.

    Raises:
        CheckpointError: the file cannot be read or holds something else.
    """
    return read_json_object(path, CheckpointError)


def quantised_error(path: Path, method: str) -> CheckpointError:
    """The error for quantised weights, which names the tool that runs them."""
    runs = _RUNS.get(method.lower(), "the tool that quantised them runs these files")
    return CheckpointError(
        f"the weights are quantised ({method}), which neoxrun does not read",
        code="unsupported_checkpoint",
        where=str(path),
        hint=f"Use the original weights, in fp16, bf16 or fp32; {runs}.",
    )


def _method(value: object) -> str:
    """The way of quantising that a ``quantization_config`` names."""
    if isinstance(value, Mapping):
        if isinstance(method := value.get("quant_method"), str):
            return method
        if any(value.get(key) for key in ("load_in_8bit", "load_in_4bit")):
            return "bitsandbytes"
    return "quantization_config"


def _unsupported(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path.name} {what}", code="unsupported_checkpoint", where=str(path))


def _rope_key(content: Mapping[str, Any]) -> str:
    """Which of its two names the mapping of the rotary embedding has; the older one wins."""
    return "rope_scaling" if content.get("rope_scaling") else "rope_parameters"


def _keys(content: Mapping[str, Any]) -> dict[str, str]:
    """The keys of config.json from which GPT-NeoX's options are, for messages."""
    name = _rope_key(content)
    rope = content.get(name) or {}
    return {
        **{option: key for key, (option, _) in _SAME.items()},
        "seq_length": "max_position_embeddings",
        "rope_scaling": name,
        "rotary_pct": f"{name}.partial_rotary_factor" if "partial_rotary_factor" in rope else "rotary_pct",
        "rotary_emb_base": f"{name}.rope_theta" if "rope_theta" in rope else "rotary_emb_base",
    }


def _rotary(content: Mapping[str, Any], path: Path) -> tuple[object, object, Mapping[str, Any] | None]:
    """Share and base of the rotary embedding, and how it is scaled, in the form of ``config.rope``.

    ``head_dim`` has one effect in transformers' network: the rotated dims are a share of it instead of those of a head.
    """
    name = _rope_key(content)
    rope = content.get(name) or {}
    if not isinstance(rope, Mapping):
        raise _unsupported(path, f"has a {name} that is not a mapping")
    share = rope.get("partial_rotary_factor", content.get("rotary_pct", 0.25))
    base = rope.get("rope_theta", content.get("rotary_emb_base", 10000))
    head_dim, hidden, heads = (
        content.get("head_dim"),
        content.get("hidden_size", 6144),
        content.get("num_attention_heads", 64),
    )
    if head_dim and all(isinstance(one, int) and one > 0 for one in (head_dim, hidden, heads)):
        width = hidden // heads
        if head_dim != width and isinstance(share, int | float) and abs(share) < 1e6:  # others are refused later
            dims = int(head_dim * share)
            if not 0 <= dims <= width:
                raise _unsupported(path, f"has head_dim {head_dim}, which does not go with heads of {width}")
            share = dims / width
            if int(width * share) < dims:  # a quotient that was rounded down: 49 * (2 / 49) < 2
                share = math.nextafter(share, 1)
    if rope.get("rope_type", rope.get("type", "default")) == "default":
        return share, base, None
    original = content.get("original_max_position_embeddings")
    return share, base, rope if original is None else {**rope, "original_max_position_embeddings": original}


def _precision(content: Mapping[str, Any], path: Path) -> str | None:
    """The number format that it states; None: it leaves that to the weights."""
    dtype = content.get("dtype") or content.get("torch_dtype")
    if dtype is None or dtype == "":
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in _PRECISIONS:
        raise _unsupported(path, f"has dtype {dtype!r}; neoxrun has {listing(sorted(_PRECISIONS))}")
    return _PRECISIONS[name]
