"""The settings of a run as JSON values, and what of them must not change when it is continued. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from neoxrun.config.settings import Settings
from neoxrun.planning.plan import Plan
from neoxrun.training.options import FinetuneOptions
from neoxrun.version import __version__

# What a run may be continued with at other values: they change neither its rows nor, beyond rounding, its steps.
_FREE: Final = (
    "version",
    "earlier",
    "continued",
    "split.replicas",
    "training.deterministic",
    "training.eval_interval",
    "training.eval_iters",
    "training.keep",
    "training.save_interval",
    "training.save_iters",
    "training.stop_at_spike",
    "training.checkpoint_activations",
    "training.zero",
)
# What follows from another one, unless a configuration sets it, and differs with it.
_FOLLOWS: Final = {
    "training.schedule.decay_iters": "training.train_iters",
    "training.schedule.warmup_iters": "training.train_iters",
    "training.schedule.min_lr": "training.schedule.lr",
}
_MICRO_BATCH: Final = "training.micro_batch_size"


def describe_run(settings: Settings, plan: Plan, options: FinetuneOptions) -> dict[str, Any]:
    """All that decides what a run computes, as JSON values.

    Args:
        settings: the model.
        plan: how it is divided.
        options: the training and its data.
    """
    tokenizer = settings.tokenizer
    made = {
        "version": __version__,
        "command": "finetune",
        "sources": [str(path) for path in settings.sources],
        "checkpoint": {"folder": settings.checkpoint, "iteration": settings.iteration, "merge": settings.merge},
        "model": asdict(settings.model),
        "tokenizer": {"type": tokenizer.tokenizer_type, "vocab_file": tokenizer.vocab_file},
        "dtype": asdict(plan.precisions),
        "split": {"tp": plan.tp, "replicas": plan.replicas},
        "training": asdict(options.training),
        "data": asdict(options.data),
        "lora": None if options.lora is None else asdict(options.lora),
        "continued": None
        if options.continued is None
        else {"checkpoint": options.continued.folder, "iteration": options.continued.iteration},
    }
    values: dict[str, Any] = json.loads(json.dumps(made, default=str))  # as they come back from the file
    return values


def differences(before: Mapping[str, Any], made: Mapping[str, Any], *, all_of_them: bool = True) -> list[str]:
    """What of two runs' settings keeps the second from continuing the first, each in words.

    Args:
        before: of the run in the folder.
        made: of the one that is asked for.
        all_of_them: also those that usually follow from another one.
    """
    old, new = dict(_flat(before)), dict(_flat(made))
    if not _sensitive_to_micro_batches(old) and not _sensitive_to_micro_batches(new):
        old.pop(_MICRO_BATCH, None)
        new.pop(_MICRO_BATCH, None)
    changed = [
        key
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    ]
    return [
        f"{key} was {_shown(old.get(key))}, is {_shown(new.get(key))}"
        for key in changed
        if all_of_them or _FOLLOWS.get(key) not in changed
    ]


def _sensitive_to_micro_batches(flat: Mapping[str, Any]) -> bool:
    """Whether a step depends on how its rows are divided: by the mean of means, or by dropout's streams."""
    dropout = ("training.attention_dropout", "training.hidden_dropout", "lora.dropout")
    return flat.get("training.loss_average") == "gpt-neox" or any(flat.get(key) for key in dropout)


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Nested values under dotted names."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{before}{key}.")
        else:
            found.append((f"{before}{key}", value))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
