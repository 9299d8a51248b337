"""The settings of a run as JSON values. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from neoxrun.config.settings import Settings
from neoxrun.planning.plan import Plan
from neoxrun.training.options import FinetuneOptions
from neoxrun.version import __version__


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
        "epochs": options.epochs,
        "data": asdict(options.data),
        "files": {
            "train": {file.name: asdict(file) for file in options.train_files},
            "valid": {file.name: asdict(file) for file in options.valid_files},
        },
        "lora": None if options.lora is None else asdict(options.lora),
        "continued": None
        if options.continued is None
        else {"checkpoint": options.continued.folder, "iteration": options.continued.iteration},
    }
    values: dict[str, Any] = json.loads(json.dumps(made, default=str))  # as they come back from the file
    return values


def evaluation_digest(made: Mapping[str, Any]) -> str:
    """What tells evaluations whose losses can be compared from those of other rows.

    Args:
        made: what ``describe_run`` gives.
    """
    training, data, files = made["training"], dict(made["data"]), made["files"]
    decisive = [training["eval_iters"], training["train_batch_size"], training["loss_average"]]
    if data["valid"]:
        del data["train"], data["weights"]
    if data["eval_stream"]:
        decisive += [training["train_iters"], training["eval_interval"]]
    evaluated = files["valid" if data["valid"] else "train"]
    return hashlib.sha256(json.dumps([decisive, data, evaluated], sort_keys=True).encode()).hexdigest()
