"""What keeps one run from continuing another, in the words in which people have given it. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from neoxrun.terminal.words import counted, printable

# What a run may be continued with at other values: they change neither its rows nor, beyond rounding, its steps.
_FREE: Final = (
    "version",
    "earlier",
    "continued",
    "epochs",
    "split.replicas",
    "training.deterministic",
    "training.keep",
    "training.save_interval",
    "training.save_iters",
    "training.stop_at_spike",
    "training.checkpoint_activations",
    "training.zero",
)
_MICRO_BATCH: Final = "training.micro_batch_size"
_EVAL_INTERVAL: Final = "training.eval_interval"
_EVAL_ITERS: Final = "training.eval_iters"
_STEPS: Final = "training.train_iters"
_FILES: Final = "files "  # before a file's name
_DATA: Final = ("data.train", "data.valid")
# What follows from another one, unless it is set, and differs with it.
_FOLLOWS: Final[Mapping[str, tuple[str, ...]]] = {
    "training.schedule.decay_iters": (_STEPS,),
    "training.schedule.warmup_iters": (_STEPS,),
    "training.schedule.min_lr": ("training.schedule.lr",),
    _EVAL_ITERS: ("training.train_batch_size", "data.valid", "data.split", "data.packed", "data.seq_length"),
    _EVAL_INTERVAL: (_STEPS,),
    "model.seq_length": ("data.seq_length",),
    "data.weights": _DATA,
    "data.valid_weights": _DATA,
    "data.eval_stream": _DATA,
}
_TOKENS_FOLLOW: Final = ("data.column", "data.document_end", "tokenizer.type", "tokenizer.vocab_file")
# The flag for a setting, or else GPT-NeoX's key where that has another name.
_NAMES: Final[Mapping[str, str]] = {
    "sources": "the configuration",
    "checkpoint.folder": "--checkpoint",
    "checkpoint.iteration": "iteration",
    "checkpoint.merge": "--merge",
    "tokenizer.type": "tokenizer_type",
    "tokenizer.vocab_file": "--tokenizer",
    "dtype.weights": "--dtype",
    "dtype.compute": "--dtype",
    "dtype.cache": "--dtype",
    "split.tp": "--tp",
    _STEPS: "--steps",
    "training.train_batch_size": "--batch-size",
    _MICRO_BATCH: "--micro-batch-size",
    "training.schedule.lr": "--lr",
    "training.schedule.min_lr": "--min-lr",
    "training.schedule.style": "--lr-decay-style",
    "training.schedule.warmup_iters": "--warmup, in steps,",
    "training.schedule.decay_iters": "lr_decay_iters",
    "training.betas": "betas of optimizer",
    "training.epsilon": "eps of optimizer",
    "training.weight_decay": "--weight-decay",
    "training.gradient_clipping": "--gradient-clipping",
    "training.loss_average": "--loss-average",
    "training.loss_scale.fixed": "loss_scale of fp16",
    "training.loss_scale.initial_power": "initial_scale_power of fp16",
    "training.loss_scale.window": "loss_scale_window of fp16",
    "training.loss_scale.hysteresis": "hysteresis of fp16",
    "training.loss_scale.least": "min_loss_scale of fp16",
    "training.fp32_gradients": "grad_accum_dtype: fp32 of data_types",
    _EVAL_INTERVAL: "--eval-interval",
    _EVAL_ITERS: "--eval-iters",
    "training.seed": "--seed",
    "data.train": "--data",
    "data.valid": "--eval-data",
    "data.weights": "train_data_weights",
    "data.valid_weights": "valid_data_weights",
    "data.split": "--split",
    "data.seq_length": "--seq-length",
    "model.seq_length": "--seq-length",
    "data.packed": "--no-pack",
    "data.eod_mask_loss": "--eod-mask-loss",
    "data.seed": "--seed",
    "data.column": "--column",
    "data.document_end": "--document-end",
    "data.eval_stream": "evaluation of other rows each time",
    "lora": "--lora",
    "lora.rank": "--lora-rank",
    "lora.alpha": "--lora-alpha",
    "lora.dropout": "--lora-dropout",
    "lora.targets": "--lora-targets",
}


def differences(before: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """All of two runs' settings that keeps the second from continuing the first, in words.

    Args:
        before: of the run in the folder, as ``run_settings.describe_run`` gives them.
        made: of the one that is asked for.
    """
    old, new = _flat_run(before), _flat_run(made)
    return _in_words(_changed(old, new), old, new)


def causes(before: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """The same without what usually follows from another one."""
    old, new = _flat_run(before), _flat_run(made)
    changed = _changed(old, new)
    listed = [key for key in changed if not any(source in changed for source in _sources(key, old, new))]
    epochs = before.get("epochs"), made.get("epochs")
    if _STEPS not in changed or None in epochs:
        return _in_words(listed, old, new)
    # Steps that follow from epochs are not what was given.
    listed = [key for key in listed if key != _STEPS]
    if epochs[0] != epochs[1]:
        listed.append("--epochs")
        old["--epochs"], new["--epochs"] = epochs
    return _in_words(listed or changed, old, new)


def _flat_run(values: Mapping[str, Any]) -> dict[str, Any]:
    """All settings under dotted names, and the files of the data under theirs."""
    flat = dict(_flat({key: value for key, value in values.items() if key != "files"}))
    files = {f"{_FILES}{name}": file for part in values.get("files", {}).values() for name, file in part.items()}
    return flat | {"lora": values.get("lora") is not None} | files


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Nested values under dotted names."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{before}{key}.")
        else:
            found.append((f"{before}{key}", value))
    return found


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The settings that differ and must not."""
    free = list(_FREE)
    if not any(map(_sensitive_to_micro_batches, (old, new))):
        free.append(_MICRO_BATCH)
    if not any(flat.get("data.eval_stream") for flat in (old, new)):
        free.append(_EVAL_INTERVAL)
    changed = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    return [key for key in changed if not any(f"{key}.".startswith(f"{one}.") for one in free)]


def _sensitive_to_micro_batches(flat: Mapping[str, Any]) -> bool:
    """Whether a step depends on how its rows are divided: by the mean of means, or by dropout's streams."""
    dropout = ("training.attention_dropout", "training.hidden_dropout", "lora.dropout")
    return flat.get("training.loss_average") == "gpt-neox" or any(flat.get(key) for key in dropout)


def _sources(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """What a setting may follow from."""
    if key.startswith("lora."):
        return ("lora",)
    if key.startswith(_FILES):
        return _TOKENS_FOLLOW if key in old and key in new else _DATA
    files = _TOKENS_FOLLOW + tuple(name for name in (*old, *new) if name.startswith(_FILES))
    return _FOLLOWS.get(key, ()) + (files if key == _EVAL_ITERS else ())


def _in_words(keys: Iterable[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Each once: one flag may be behind several settings."""
    return list(dict.fromkeys(_difference(key, old.get(key), new.get(key)) for key in keys))


def _difference(key: str, old: Any, new: Any) -> str:
    if key.startswith(_FILES):
        name, was, now = key.removeprefix(_FILES), _contents(old), _contents(new)
        return f"{name} has changed" if was == now else f"{name} had {was}, has {now}"
    name = _NAMES.get(key, key.removeprefix("model.").removeprefix("training."))
    if name.startswith("--") and {type(old), type(new)} == {bool}:
        given = ("not given", "given")
        before, after = (given[one is not (key == "data.packed")] for one in (old, new))
        return f"{name} was {before}, is {after}"
    return f"{name} was {_shown(old)}, is {_shown(new)}"


def _contents(file: Mapping[str, Any] | None) -> str:
    if file is None:
        return "no documents"
    return f"{counted(file['documents'], 'document')} of {counted(file['tokens'], 'token')}"


def _shown(value: Any) -> str:
    """A value as people write it; 12 digits of a number tell one from another."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list):
        return (" " if isinstance(value[0], str) else ",").join(map(_shown, value)) if value else "none"
    return printable(value) or "none" if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
