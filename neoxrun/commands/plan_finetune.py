"""``neoxrun plan --finetune``: what a fine-tuning would need, and how it would be divided."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, Final

from neoxrun.commands import finetune_look
from neoxrun.commands.training_args import planned, training_configuration, training_from_args
from neoxrun.errors import UsageError
from neoxrun.planning.devices import Device
from neoxrun.planning.finetune import FinetunePlan

_OWN: Final = (
    "batch_size",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "seq_length",
    "zero_stage",
    "offload",
    "checkpoint_activations",
    "lora",
)
_OTHERS: Final = ("prompts", "prompt_tokens", "maximum_tokens", "score")


def check_flags(args: argparse.Namespace) -> None:
    """Refuse options of a fine-tuning without ``--finetune``, and those of other work with it.

    Raises:
        UsageError: there are such.
    """
    for name in _OTHERS if args.finetune else _OWN:
        if getattr(args, name):
            flag = f"--{name.replace('_', '-')}"
            if args.finetune:
                raise UsageError(f"{flag} and --finetune cannot be combined", code="conflicting_options")
            raise UsageError(f"{flag} needs --finetune", code="missing_option", hint="Add --finetune.")


def describe(args: argparse.Namespace, devices: Sequence[Device]) -> str:
    """The plan of a fine-tuning, for people or as JSON.

    Args:
        args: the command line.
        devices: of this machine, or those that it describes.

    Raises:
        NeoxrunError: there is no such plan.
    """
    settings, options = training_configuration(args)
    request, lora = training_from_args(args, settings, options)
    found = planned(args, settings, devices, request, lora)
    return json.dumps(as_json(found), indent=2) if args.json else render(found, settings.title)


def render(found: FinetunePlan, name: str) -> str:
    """The plan for people."""
    lines = [
        f"{name}: training {finetune_look.describe_training(found)}",
        finetune_look.describe_split(found),
        f"memory: {finetune_look.describe_memory(found)}",
    ]
    if speed := finetune_look.describe_speed(found):
        lines.append(f"speed: {speed}")
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def as_json(found: FinetunePlan) -> dict[str, Any]:
    """The plan as JSON values; bytes are those of one rank."""
    share, need = found.share, found.need
    return {
        "tp": share.tp,
        "replicas": share.replicas,
        "dtype": found.sizing.precision,
        "zero_stage": share.zero.stage,
        "offload_optimizer": share.zero.offload_optimizer,
        "offload_parameters": share.zero.offload_parameters,
        "checkpoint_activations": share.recompute,
        "parameters": found.sizing.parameters,
        "trained_parameters": found.sizing.trained,
        "seq_length": found.sizing.seq_length,
        "train_batch_size": found.batch.rows,
        "micro_batch_size": share.micro,
        "weights_bytes": need.weights,
        "gradients_bytes": need.gradients,
        "optimizer_bytes": need.optimizer,
        "activations_bytes": need.activations,
        "step_bytes": need.step,
        "runtime_bytes": need.runtime,
        "total_bytes": need.total,
        "free_bytes": found.plan.devices[0].free_bytes,
        "host_bytes": need.host,
        "tokens_per_second": found.tokens_per_second,
        "notes": list(found.notes),
    }
