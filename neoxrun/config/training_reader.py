"""GPT-NeoX's keys of training to a request. No torch.

What a configuration says counts as GPT-NeoX reads it (megatron/neox_arguments, training.py: get_optimizer and
get_learning_rate_scheduler). Where it is silent, the defaults are those of a short fine-tuning (``training_keys``).
"""

from __future__ import annotations

from typing import Final, cast

from neoxrun.config.training import DecayStyle, LossScaleConfig, ZeroConfig
from neoxrun.config.training_batch import MOST_ROWS, BatchRequest
from neoxrun.config.training_keys import REFUSED, SWITCHED, TRAINING
from neoxrun.config.training_request import TrainingRequest, check_rates
from neoxrun.config.typed import ConfigOptions
from neoxrun.errors import ConfigError

LR_WHOLE: Final = 1e-5
LR_LORA: Final = 2e-4
_LR_OF_OPTIMIZER: Final = 1e-3  # GPT-NeoX's, where optimizer.params has none
_STYLES: Final = ("constant", "linear", "cosine", "exponential")
_ADAM: Final = ("adam", "adamw", "cpu_adam", "cpu_torch_adam")
# Which are the same as leaving them out, of the optimizer.
_OPTIMIZER_DEFAULTS: Final = {"bias_correction": True, "adam_w_mode": True, "adamw_mode": True, "amsgrad": False}
_KEEP: Final = 2


def read_training(options: ConfigOptions, *, lora: bool, seed: int) -> TrainingRequest:
    """What the options say of a training.

    Args:
        options: the merged configuration, with what flags set over it under GPT-NeoX's names.
        lora: adapters are trained, which need a larger learning rate.
        seed: GPT-NeoX's ``seed``.

    Raises:
        ConfigError: an option has a value that is not possible, or would change the training and is not supported.
    """
    options = options.without_nulls()
    refuse_untrained(options)
    lr = _learning_rate(options, lora=lora)
    min_lr = options.number("min_lr", lr / 10, zero=True)
    check_rates(lr, min_lr, options.where("min_lr"))
    steps, epochs = _length(options)
    betas, epsilon = _adam(options)
    every, powers = _checkpoints(options)
    checkpointing = options.get("checkpoint_activations") is not None
    return TrainingRequest(
        steps=steps,
        epochs=epochs,
        batch=_batch(options),
        lr=lr,
        min_lr=min_lr,
        style=cast(DecayStyle, options.choice("lr_decay_style", "cosine", _STYLES)),
        warmup=options.number("warmup", 0.03, most=1, zero=True),
        warmup_stated=options.get("warmup") is not None,
        decay_iters=options.integer("lr_decay_iters", None),
        decay_fraction=options.number("lr_decay_fraction", None, most=1),
        betas=betas,
        epsilon=epsilon,
        weight_decay=options.number("weight_decay", 0.01, zero=True),
        gradient_clipping=options.number("gradient_clipping", 1.0, zero=True),
        loss_scale=_loss_scale(options),
        fp32_gradients=_sums_in_fp32(options),
        zero=_zero(options),
        checkpoint_activations=options.flag("checkpoint_activations", False) if checkpointing else None,
        attention_dropout=options.number("attention_dropout", 0.0, most=0.999, zero=True),
        hidden_dropout=options.number("hidden_dropout", 0.0, most=0.999, zero=True),
        eval_interval=options.integer("eval_interval", None, low=0),
        eval_iters=options.integer("eval_iters", None, low=0),
        save_interval=every,
        save_iters=_steps(options, "extra_save_iters"),
        save_powers=powers,
        keep=_kept(options),
        is_training=options.get("optimizer") is not None,
        seed=seed,
    )


def refuse_untrained(options: ConfigOptions) -> None:
    """Refuse what changes the training and is not implemented, and what is said in two ways.

    Raises:
        ConfigError: there is such an option.
    """
    for name, accepted in REFUSED.items():
        entry = options.get(name)
        if entry is not None and entry.value not in accepted:
            words = ", ".join(str(value).lower() for value in accepted) or "null"
            raise options.unsupported(name, words)
    for name in TRAINING:
        entry = options.get(name)
        if entry is not None and entry.twice:
            raise ConfigError(
                f"{name} is given twice, with different values",
                code="conflicting_options",
                where=entry.where,
                hint="Remove one of the two lines.",
            )
    for name in SWITCHED:
        entry = options.get(name)
        if entry is not None and not (isinstance(entry.value, dict) and entry.value.get("enabled", True) is False):
            raise options.unsupported(name, "null, or a mapping with enabled: false")
    entry = options.get("deepspeed_extra_args")
    if entry is not None and (not isinstance(entry.value, dict) or set(entry.value) - {"bf16"}):
        raise options.unsupported("deepspeed_extra_args", "null; the options have keys of their own")


def _learning_rate(options: ConfigOptions, *, lora: bool) -> float:
    """That of the optimizer, as in GPT-NeoX; ``lr`` where there is none, or where the command line gives it."""
    params = _params(options)
    own = options.get("lr")
    name = "optimizer.params.lr"
    if own is not None and (own.folder is None or params.get(name) is None):
        return options.number("lr", LR_WHOLE)
    silent = LR_LORA if lora else LR_WHOLE
    return params.number(name, silent if options.get("optimizer") is None else _LR_OF_OPTIMIZER)


def _params(options: ConfigOptions) -> ConfigOptions:
    return options.part("optimizer").part("optimizer.params")


def _adam(options: ConfigOptions) -> tuple[tuple[float, float], float]:
    optimizer, params = options.part("optimizer"), _params(options)
    for name in optimizer.names():
        if name not in ("optimizer.type", "optimizer.params"):
            raise ConfigError(
                f"{name} is not known",
                code="unknown_option",
                where=options.where("optimizer"),
                hint="`optimizer` has a type and params.",
            )
    optimizer.choice("optimizer.type", "adam", _ADAM)
    prefix = "optimizer.params."
    for name in params.names():
        short = name.removeprefix(prefix)
        if short == "weight_decay":
            raise ConfigError(
                f"GPT-NeoX does not accept {name}",
                code="unsupported_option",
                where=params.where(name),
                hint="Give weight_decay as a key of its own.",
            )
        if short not in ("lr", "betas", "eps", *_OPTIMIZER_DEFAULTS):
            raise ConfigError(
                f"{name} is not supported",
                code="unsupported_option",
                where=params.where(name),
                hint="The optimizer is AdamW, with lr, betas and eps.",
            )
        if short in _OPTIMIZER_DEFAULTS and params.flag(name, True) != _OPTIMIZER_DEFAULTS[short]:
            raise params.unsupported(name, str(_OPTIMIZER_DEFAULTS[short]).lower())
    betas = params.get(f"{prefix}betas")
    values = [0.9, 0.999] if betas is None else betas.value
    if not isinstance(values, list) or len(values) != 2 or not all(_is_share(value) for value in values):
        raise params.refusal(f"{prefix}betas", "two numbers of 0 or more and below 1")
    return (float(values[0]), float(values[1])), params.number(f"{prefix}eps", 1e-8, zero=True)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _length(options: ConfigOptions) -> tuple[int | None, int]:
    """Steps, and the epochs that count where they are None."""
    steps = options.integer("train_iters", None)
    epochs = options.integer("train_epochs", None)
    if steps is not None and epochs is not None:
        raise ConfigError(
            f"train_iters {steps} and train_epochs {epochs} both say how long to train",
            code="conflicting_options",
            where=options.where("train_epochs"),
            hint="Keep one of them; --steps and --epochs replace both.",
        )
    return steps, epochs or 1


def _batch(options: ConfigOptions) -> BatchRequest:
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    micro = options.get(names[1])
    return BatchRequest(
        rows=options.integer(names[0], None, high=MOST_ROWS),
        micro=options.integer(names[1], None, high=MOST_ROWS),
        accumulation=options.integer(names[2], None, high=MOST_ROWS),
        micro_fixed=micro is not None and micro.folder is None,
        where=options.where(*names),
    )


def _zero(options: ConfigOptions) -> ZeroConfig | None:
    name = "zero_optimization"
    if options.get(name) is None:
        return None
    zero = options.part(name)
    stage = zero.integer(f"{name}.stage", 0, low=0, high=3)
    offload = [_is_offloaded(zero, f"{name}.{part}") for part in ("offload_optimizer", "offload_param")]
    offload[0] = zero.flag(f"{name}.cpu_offload", False) or offload[0]  # until DeepSpeed 0.3.16
    for parts, least, what in ((offload[0], 1, "offload_optimizer"), (offload[1], 3, "offload_param")):
        if parts and stage < least:
            raise ConfigError(
                f"{what} needs stage {least} or more, not {stage}",
                code="conflicting_options",
                where=options.where(name),
                hint=f"Add --zero-stage {least}.",
            )
    return ZeroConfig(stage, *offload)


def _is_offloaded(zero: ConfigOptions, name: str) -> bool:
    if zero.get(name) is None:
        return False
    return zero.part(name).choice(f"{name}.device", "none", ("cpu", "none")) == "cpu"


def _loss_scale(options: ConfigOptions) -> LossScaleConfig:
    """Of the block ``fp16``, with DeepSpeed's defaults."""
    entry = options.get("fp16")
    if entry is None or not isinstance(entry.value, dict):
        return LossScaleConfig()
    block, usual = options.part("fp16"), LossScaleConfig()
    return LossScaleConfig(
        fixed=block.number("fp16.loss_scale", usual.fixed, zero=True),
        initial_power=block.integer("fp16.initial_scale_power", usual.initial_power, low=0, high=40),
        window=block.integer("fp16.loss_scale_window", usual.window),
        hysteresis=block.integer("fp16.hysteresis", usual.hysteresis),
        least=block.number("fp16.min_loss_scale", usual.least),
    )


def _sums_in_fp32(options: ConfigOptions) -> bool:
    """What ``data_types.grad_accum_dtype`` says; DeepSpeed sums in the format of the computation where it is silent."""
    name = "data_types"
    if options.get(name) is None:
        return False
    types = options.part(name).without_nulls()
    for other in types.names():
        if other != f"{name}.grad_accum_dtype":
            raise options.unsupported(name, "null, or a mapping with grad_accum_dtype")
    return types.choice(f"{name}.grad_accum_dtype", "bf16", ("bf16", "fp16", "fp32")) == "fp32"


def _checkpoints(options: ConfigOptions) -> tuple[int | None, int | None]:
    """Steps between checkpoints, and the base of the powers after which there is one."""
    name = "checkpoint_factor"
    if options.choice("checkpoint_scale", "linear", ("linear", "log")) == "linear" or options.get(name) is None:
        return options.integer(name, None, low=0), None
    return 0, options.integer(name, None, low=2)


def _steps(options: ConfigOptions, name: str) -> tuple[int, ...]:
    entry = options.get(name)
    values = [] if entry is None else entry.value
    if not isinstance(values, list) or not all(isinstance(value, int) and value >= 0 for value in values):
        raise options.refusal(name, "a list of whole numbers")
    return tuple(values)


def _kept(options: ConfigOptions) -> int | None:
    return options.integer("keep_last_n_checkpoints", _KEEP)
