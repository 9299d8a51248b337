"""The options that describe the network: unsupported ones are refused, the others become a ModelConfig."""

from __future__ import annotations

from typing import Final, Literal, cast

from neoxrun.config import neox_keys
from neoxrun.config.rope import read_rope_scaling
from neoxrun.config.settings import ModelConfig, RopeScaling
from neoxrun.config.typed import ConfigOptions
from neoxrun.errors import ConfigError

_MOST_LAYERS: Final = 10_000  # far beyond any model; planning takes longer with each


def refuse_unsupported(options: ConfigOptions) -> None:
    """Refuse every option whose value describes a network that is not implemented.

    Raises:
        ConfigError: naming the option, its value and what is supported.
    """
    for name, accepted in neox_keys.FIXED.items():
        entry = options.get(name)
        if entry is not None and entry.value not in accepted:
            raise options.unsupported(name, " or ".join(str(value).lower() for value in accepted) or "null")
    _check_attention(options)
    options.choice("activation", "gelu", ("gelu",))
    _check_soft_prompt(options)

    kv_heads = options.integer("num_kv_heads", None)
    if kv_heads is not None and kv_heads != options.integer("num_attention_heads", 0):
        raise options.unsupported("num_kv_heads", "null, or the same as num_attention_heads")
    # A head that is split over the hidden dim has other shards; on one rank both are stored alike.
    head = options.choice("output_layer_parallelism", "column", ("column", "row"))
    if head == "row" and options.integer("model_parallel_size", 1, low=0) > 1:
        raise options.unsupported("output_layer_parallelism", "column")
    # bitsandbytes puts a norm into the position embedding.
    if options.flag("use_bnb_optimizer", False) and options.text("pos_emb", "learned").lower() == "learned":
        raise options.unsupported("use_bnb_optimizer", "false with learned positions")


def _check_attention(options: ConfigOptions) -> None:
    """``attention_config``: the types one by one, or ``[[types, repeats], ...]``; repeats may be ``all``."""
    entry = options.get("attention_config")
    if entry is None:
        return
    malformed = options.refusal("attention_config", "a list like [[[global], 12]]")
    if not isinstance(entry.value, list):
        raise malformed
    items = entry.value
    if all(isinstance(item, str) for item in items):
        items = [[items, 1]]
    num_layers = options.integer("num_layers", 0, high=_MOST_LAYERS)
    described = 0
    for item in items:
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], list):
            raise malformed
        types, repeats = item
        for kind in types:
            if kind not in ("global", "flash"):
                raise options.unsupported("attention_config", "global and flash attention", kind)
        if repeats == "all" and types and num_layers % len(types) == 0:
            described = num_layers
            break
        if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 0:
            raise malformed
        described += repeats * len(types)
    if described != num_layers:
        raise ConfigError(
            f"attention_config describes {described} layers, but num_layers is {num_layers}",
            code="conflicting_options",
            where=entry.where,
        )


def _check_soft_prompt(options: ConfigOptions) -> None:
    entry = options.get("soft_prompt_tuning")
    if entry is None:
        return
    if not isinstance(entry.value, dict):
        raise options.refusal("soft_prompt_tuning", "a mapping with `enabled`")
    if entry.value.get("enabled", False):
        raise options.unsupported("soft_prompt_tuning", "null, or enabled: false")


def read_architecture(options: ConfigOptions) -> ModelConfig:
    """The network that the options describe.

    Raises:
        ConfigError: a value is impossible, alone or together with another.
    """
    hidden = options.integer("hidden_size", 0)
    heads = options.integer("num_attention_heads", 0)
    if hidden % heads:
        raise options.refusal("hidden_size", f"a multiple of num_attention_heads ({heads})")
    seq_length = options.integer("seq_length", 0)
    positions = options.integer("max_position_embeddings", 0)
    if positions < seq_length:
        hint = f"Lower seq_length (--seq-length in finetune) to {positions}, beyond which the model knows no position."
        raise options.refusal("max_position_embeddings", f"at least seq_length ({seq_length})", hint)
    norm = cast(Literal["layernorm", "rmsnorm"], options.choice("norm", "layernorm", ("layernorm", "rmsnorm")))
    layernorm_epsilon = options.number("layernorm_epsilon", 1e-5)
    rms_norm_epsilon = options.number("rms_norm_epsilon", 1e-8)
    pos_emb = cast(
        Literal["rotary", "learned", "none"],
        options.choice("pos_emb", "learned", ("rotary", "learned", "none")),
    )
    rotary_pct = options.number("rotary_pct", 1.0, most=1)
    rotary_dims = int(hidden // heads * rotary_pct)
    if pos_emb == "rotary" and (rotary_dims < 2 or rotary_dims % 2):
        raise ConfigError(
            f"{options.written('rotary_pct')} {rotary_pct:g} of {hidden // heads} dims per head makes {rotary_dims} "
            "rotary dims: their number must be even and at least 2",
            code="invalid_value",
            where=options.where("rotary_pct", "hidden_size"),
        )
    fused, onnx_safe = options.flag("bias_gelu_fusion", False), options.flag("onnx_safe", False)
    return ModelConfig(
        num_layers=options.integer("num_layers", 0, high=_MOST_LAYERS),
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=_intermediate_size(options, hidden),
        seq_length=seq_length,
        max_position_embeddings=positions,
        pos_emb=pos_emb,
        rotary_pct=rotary_pct,
        rotary_emb_base=options.number("rotary_emb_base", 10000.0),
        rotary_legacy_fp16=options.flag("rotary_legacy_fp16", False),
        gpt_j_residual=options.flag("gpt_j_residual", False),
        gpt_j_tied=options.flag("gpt_j_tied", False),
        norm=norm,
        norm_epsilon=rms_norm_epsilon if norm == "rmsnorm" else layernorm_epsilon,
        gelu="tanh" if fused and not onnx_safe else "erf",
        use_bias_in_attn_linear=options.flag("use_bias_in_attn_linear", True),
        use_bias_in_mlp=options.flag("use_bias_in_mlp", True),
        tie_embeddings=not options.flag("no_weight_tying", False),
        make_vocab_size_divisible_by=options.integer("make_vocab_size_divisible_by", 128),
        model_parallel_size=max(1, options.integer("model_parallel_size", 1, low=0)),
        pipe_parallel_size=options.integer("pipe_parallel_size", 0, low=0),
        rope_scaling=_rope_scaling(options, pos_emb, positions),
    )


def _rope_scaling(options: ConfigOptions, pos_emb: str, positions: int) -> RopeScaling | None:
    entry = options.get("rope_scaling")
    if entry is None:
        return None
    scaling = read_rope_scaling(
        {entry.key: entry.value, "max_position_embeddings": positions}, entry.where, options.written(entry.key)
    )
    if scaling is not None and pos_emb != "rotary":
        raise options.refusal("rope_scaling", f"null with pos_emb {pos_emb}")
    return scaling


def _intermediate_size(options: ConfigOptions, hidden: int) -> int:
    """Width of the MLP: as given, or the hidden size times a factor; rounded up to ``mlp_multiple_of``."""
    given = options.integer("intermediate_size", None)
    factor = options.number("expansion_factor", None, most=1e6)
    if given is not None and factor is not None:
        raise options.refusal("expansion_factor", f"unset when intermediate_size is given ({given})")
    width = given or int((factor or 4) * hidden)
    multiple = options.integer("mlp_multiple_of", 1)
    # GPT-NeoX rounds the width of the first matrix up to a multiple of 2 x mlp_multiple_of and that of the second to a
    # multiple of mlp_multiple_of: where the two differ, GPT-NeoX's network does not run either.
    rounded = -(-width // multiple) * multiple
    if rounded == 0 or rounded % (2 * multiple):
        raise ConfigError(
            f"an MLP width of {width} does not go with mlp_multiple_of {multiple}: "
            f"{rounded} is not a multiple of {2 * multiple}",
            code="conflicting_options",
            where=options.where("intermediate_size", "expansion_factor", "mlp_multiple_of", "hidden_size"),
        )
    return rounded
