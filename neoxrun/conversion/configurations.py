"""The configuration that goes with a network's files: GPT-NeoX's YAML, and Hugging Face's config.json. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neoxrun.config.rope import write_rope_scaling
from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.errors import ConfigError

_NEOX_PRECISION: Final[Mapping[Precision, str]] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bfloat16"}
_TORCH_NAMES: Final[Mapping[Precision, str]] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def neox_options(config: ModelConfig, precision: Precision) -> dict[str, object]:
    """GPT-NeoX's options for a network, without paths. Options with GPT-NeoX's own default are left out.

    Args:
        config: the network.
        precision: number format of the files.
    """
    options: dict[str, object] = {
        "pipe_parallel_size": config.pipe_parallel_size,
        "model_parallel_size": config.model_parallel_size,
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "seq_length": config.seq_length,
        "max_position_embeddings": config.max_position_embeddings,
        "norm": config.norm,
        "rms_norm_epsilon" if config.norm == "rmsnorm" else "layernorm_epsilon": config.norm_epsilon,
        "pos_emb": config.pos_emb,
    }
    if config.pos_emb == "rotary":
        base = config.rotary_emb_base
        options |= {"rotary_pct": config.rotary_pct, "rotary_emb_base": int(base) if base.is_integer() else base}
    if config.rope_scaling is not None:
        options["rope_scaling"] = write_rope_scaling(config.rope_scaling)
    if config.intermediate_size != 4 * config.hidden_size:
        options["intermediate_size"] = config.intermediate_size
    options |= {
        "gpt_j_residual": config.gpt_j_residual,
        "gpt_j_tied": config.gpt_j_tied,
        "activation": "gelu",
        "bias_gelu_fusion": config.gelu == "tanh",
        "no_weight_tying": not config.tie_embeddings,
        "output_layer_parallelism": "column",
        "make_vocab_size_divisible_by": config.make_vocab_size_divisible_by,
        "precision": _NEOX_PRECISION[precision],
    }
    for name, value in (
        ("use_bias_in_attn_linear", config.use_bias_in_attn_linear),
        ("use_bias_in_mlp", config.use_bias_in_mlp),
    ):
        if not value:
            options[name] = False
    if config.rotary_legacy_fp16:
        options["rotary_legacy_fp16"] = True
    return options


def yaml_text(options: Mapping[str, object], *comments: str) -> str:
    """The options as a YAML file that GPT-NeoX and neoxrun read alike: words, numbers and quoted texts."""
    lines = [f"# {comment}" for comment in comments]
    return "\n".join([*lines, *(f"{key}: {_scalar(value)}" for key, value in options.items())]) + "\n"


def _scalar(value: object) -> str:
    text = json.dumps(value)
    # To YAML 1.1, which PyYAML reads, 1e-05 is a text.
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text


def vocabulary_divisor(rows: int, tp: int, tokenizer_size: int | None, configured: int) -> int:
    """A make_vocab_size_divisible_by with which GPT-NeoX pads the tokenizer's vocabulary to ``rows``.

    Args:
        rows: of the padded vocabulary over all ranks; a multiple of ``tp``.
        tp: tensor-parallel size.
        tokenizer_size: entries of the tokenizer; None where it is not known.
        configured: the divisor that the source's configuration has, which is kept where it does.
    """
    for divisor in (configured, 128):
        multiple = divisor * tp
        if tokenizer_size is not None and -(-tokenizer_size // multiple) * multiple == rows:
            return divisor
    return rows // tp


def refuse_for_hugging_face(config: ModelConfig) -> None:
    """Refuse a network that transformers' GPTNeoXForCausalLM is not.

    Raises:
        ConfigError: naming the first option that it does not have.
    """
    for key, value, only in (
        ("pos_emb", config.pos_emb, "rotary"),
        ("norm", config.norm, "layernorm"),
        ("gpt_j_tied", config.gpt_j_tied and config.gpt_j_residual, False),
        ("use_bias_in_mlp", config.use_bias_in_mlp, True),
        ("rotary_legacy_fp16", config.rotary_legacy_fp16, False),
    ):
        if value != only:
            raise ConfigError(
                f"Hugging Face's GPT-NeoX has no {key}: {json.dumps(value)}, only {json.dumps(only)}",
                code="unsupported_option",
                hint="Keep the model in GPT-NeoX's files: --to neox.",
            )


def config_json(config: ModelConfig, rows: int, precision: Precision, ends: Sequence[int]) -> dict[str, Any]:
    """config.json of a network, as transformers 4 and 5 and vLLM read it.

    Args:
        config: the network, which ``refuse_for_hugging_face`` lets through.
        rows: of the embedding.
        precision: number format of the files.
        ends: ids of the tokens that end a text; the first begins one, too.
    """
    rope = {} if config.rope_scaling is None else write_rope_scaling(config.rope_scaling)
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": rows,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        # GPT-NeoX's fused form has the formula that transformers calls gelu_fast.
        "hidden_act": "gelu_fast" if config.gelu == "tanh" else "gelu",
        "layer_norm_eps": config.norm_epsilon,
        "max_position_embeddings": config.max_context,
        "use_parallel_residual": config.gpt_j_residual,
        "attention_bias": config.use_bias_in_attn_linear,
        "rotary_pct": config.rotary_pct,
        "rotary_emb_base": config.rotary_emb_base,
        "rope_parameters": {
            "rope_type": "default",
            **rope,
            "rope_theta": config.rotary_emb_base,
            "partial_rotary_factor": config.rotary_pct,
        },
        **({"rope_scaling": rope} if rope else {}),  # its name in transformers 4
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "classifier_dropout": 0.1,
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "torch_dtype": _TORCH_NAMES[precision],
        **end_options(ends),
    }


def end_options(ends: Sequence[int]) -> dict[str, Any]:
    """The keys of config.json and generation_config.json for the tokens that begin and end a text."""
    return {"bos_token_id": ends[0], "eos_token_id": ends[0] if len(ends) == 1 else list(ends)} if ends else {}
