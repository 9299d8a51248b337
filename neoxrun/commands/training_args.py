"""Flags of a training as options of the configuration, over which they are set under GPT-NeoX's names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from neoxrun.commands import common
from neoxrun.config.settings import Settings
from neoxrun.config.training import LoraConfig
from neoxrun.config.training_keys import READ
from neoxrun.config.training_reader import read_training
from neoxrun.config.training_request import TrainingRequest
from neoxrun.config.typed import ConfigOptions
from neoxrun.config.yaml_source import ConfigEntry
from neoxrun.errors import UsageError
from neoxrun.planning.devices import Device
from neoxrun.planning.finetune import FinetunePlan, plan_finetune
from neoxrun.planning.finetune_speed import measure_cpu
from neoxrun.planning.planner import vocab_size_for_planning

_KEYS: Final[Mapping[str, str]] = {
    "batch_size": "train_batch_size",
    "checkpoint_activations": "checkpoint_activations",
    "eod_mask_loss": "eod_mask_loss",
    "epochs": "train_epochs",
    "eval_interval": "eval_interval",
    "eval_iters": "eval_iters",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "gradient_clipping",
    "keep": "keep_last_n_checkpoints",
    "lr": "lr",
    "lr_decay_style": "lr_decay_style",
    "micro_batch_size": "train_micro_batch_size_per_gpu",
    "min_lr": "min_lr",
    "save_interval": "checkpoint_factor",
    "split": "split",
    "steps": "train_iters",
    "warmup": "warmup",
    "weight_decay": "weight_decay",
}
"""GPT-NeoX's key for a flag's value."""

# What a flag leaves without effect, of the configuration.
_REPLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "epochs": ("train_iters",),
    "steps": ("train_epochs",),
    "save_interval": ("checkpoint_scale",),
    "data": ("data_path", "train_data_weights", "valid_data_paths", "valid_data_weights"),
    "eval_data": ("valid_data_weights",),
}


def training_configuration(args: argparse.Namespace) -> tuple[Settings, ConfigOptions]:
    """The settings, and the options with the flags of ``finetune`` or ``plan --finetune`` over them."""
    if args.seq_length is not None:
        args.overrides.append(f"seq_length={args.seq_length}")
    settings, options = common.configuration_from_args(args, read=READ)
    return settings, over_configuration(args, options)


def over_configuration(args: argparse.Namespace, options: ConfigOptions) -> ConfigOptions:
    """The options with the command line's flags over them, under GPT-NeoX's names.

    Raises:
        UsageError: weights of files are set, and the files named in a way that has none.
    """
    entries: dict[str, ConfigEntry] = {}

    def put(key: str, value: object, flag: str) -> None:
        entries[key] = ConfigEntry(key, value, f"--{flag.replace('_', '-')}")

    given = {name: value for name, value in vars(args).items() if value is not None and value is not False}
    for flag, replaced in _REPLACES.items():
        if flag in given:
            for key in replaced:
                entry = options.get(key)
                if key.endswith("_weights") and entry is not None and entry.folder is None and entry.value is not None:
                    raise UsageError(
                        f"{key} and --{flag.replace('_', '-')} cannot be combined",
                        code="conflicting_options",
                        where=entry.where,
                        hint=f"Name the files with --set {key.replace('weights', 'paths')}=[FILE,...] instead.",
                    )
                put(key, None, flag)
    for flag, key in _KEYS.items():
        if flag in given:
            put(key, given[flag], flag)
    for flag, key in (("data", "train_data_paths"), ("eval_data", "valid_data_paths")):
        if flag in given:
            put(key, [str(path) for path in given[flag]], flag)
    if "zero_stage" in given or "offload" in given:
        flag = "zero_stage" if "zero_stage" in given else "offload"
        put("zero_optimization", _zero(args, options), flag)
    return options.over(entries)


def _zero(args: argparse.Namespace, options: ConfigOptions) -> dict[str, object]:
    """``zero_optimization`` with what the flags say; the least stage that can offload, where none is said."""
    entry = options.get("zero_optimization")
    zero = dict(entry.value) if entry is not None and isinstance(entry.value, dict) else {}
    if args.offload is not None:
        parts = {"optimizer": ("offload_optimizer",), "all": ("offload_optimizer", "offload_param")}[args.offload]
        zero |= {part: {"device": "cpu"} for part in parts}
        stage = zero.get("stage", 0)
        zero["stage"] = max(stage if isinstance(stage, int) else 0, 3 if args.offload == "all" else 1)
    if args.zero_stage is not None:
        zero["stage"] = args.zero_stage
    return zero


def training_from_args(
    args: argparse.Namespace, settings: Settings, options: ConfigOptions
) -> tuple[TrainingRequest, LoraConfig | None]:
    """What is asked of a training, and the adapters; None: the whole model is trained.

    Args:
        args: the command line.
        settings: of the configuration.
        options: of the configuration, with flags over them.

    Raises:
        ConfigError: an option is not possible or not supported.
        UsageError: options of adapters do not go together.
    """
    lora = _lora(args)
    request = read_training(options, lora=lora is not None, seed=settings.seed)
    if hasattr(args, "loss_average"):
        request = replace(
            request,
            loss_average=args.loss_average,
            deterministic=args.deterministic,
            stop_at_spike=not args.ignore_spikes,
        )
    return request, lora


def planned(
    args: argparse.Namespace,
    settings: Settings,
    devices: Sequence[Device],
    request: TrainingRequest,
    lora: LoraConfig | None,
) -> FinetunePlan:
    """How the training runs on ``devices``.

    Raises:
        UsageError: it is not possible, or does not fit.
    """
    vocab_size, assumed = vocab_size_for_planning(settings)
    here = bool(devices) and devices[0].kind == "cpu" and devices[0].cores > 0  # not only described
    return plan_finetune(
        settings,
        devices,
        common.requested_from_args(args),
        request,
        lora,
        vocab_size=vocab_size,
        vocab_assumed=assumed,
        cpu=measure_cpu() if here and common.is_first(args) else None,
    )


def _lora(args: argparse.Namespace) -> LoraConfig | None:
    if not args.lora:
        for name in ("rank", "alpha", "dropout", "targets"):
            if getattr(args, f"lora_{name}") is not None:
                raise UsageError(f"--lora-{name} needs --lora", code="missing_option", hint="Add --lora.")
        return None
    usual = LoraConfig()
    rank = args.lora_rank or usual.rank
    alpha = 2.0 * rank if args.lora_alpha is None else args.lora_alpha
    dropout = args.lora_dropout or 0.0
    if not 0 < alpha < 1e6:
        raise UsageError(f"--lora-alpha {alpha:g} is not a number greater than 0", code="invalid_value")
    if not 0 <= dropout < 1:
        raise UsageError(f"--lora-dropout {dropout:g} is not 0 or more and below 1", code="invalid_value")
    chosen = args.lora_targets or usual.targets
    return LoraConfig(rank, alpha, dropout, tuple(name for name in usual.targets if name in chosen))
