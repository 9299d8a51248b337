"""Which run of GPT-NeoX ``neoxrun finetune`` continues, and how, by the configuration's own keys."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from neoxrun.checkpoint import neox_schedule
from neoxrun.checkpoint.neox_run import NeoxRun, find_neox_run
from neoxrun.checkpoint.neox_schedule import ScheduleChoice
from neoxrun.config.settings import Settings
from neoxrun.config.training import LoraConfig, ScheduleConfig, TrainingConfig
from neoxrun.config.typed import ConfigOptions
from neoxrun.errors import ConfigError
from neoxrun.training.folder import SETTINGS, read_json, saved_checkpoints

_ADAM: Final = {
    "betas": "optimizer.params.betas",
    "epsilon": "optimizer.params.eps",
    "weight_decay": "weight_decay",
}
"""AdamW's settings, and GPT-NeoX's keys for them."""


def continued_run(
    args: argparse.Namespace, settings: Settings, options: ConfigOptions, lora: LoraConfig | None, folder: Path
) -> tuple[NeoxRun | None, list[str]]:
    """The run of GPT-NeoX that is continued, as ``finetune: false`` asks for, and a warning where there is none.

    Where a run of ours in the folder is continued, there is no other one, and no warning.

    Raises:
        CheckpointError: its files are missing, damaged, or of a kind that is not read.
        ConfigError: the configuration names no checkpoint.
    """
    where = options.where("finetune")
    if where is None or options.flag("finetune", True) or args.random_weights:
        return None, []
    if (args.resume or args.resume_anyway) and saved_checkpoints(folder):
        return None, []
    if lora is not None:
        why = "an adapter does not have"
    elif options.flag("no_load_optim", False):
        why = "no_load_optim leaves out"
    elif (found := find_neox_run(settings)) is not None:
        return found, []
    else:
        why = "the checkpoint does not have"
    return None, [
        f"finetune: false ({where}) would continue a run of GPT-NeoX with its optimizer's state, which {why}: the "
        "weights are trained from step 1"
    ]


def trained_tp(folder: Path, continued: NeoxRun | None) -> int | None:
    """The tensor-parallel size of a run that is continued, which it keeps; None where there is none."""
    if continued is not None:
        return continued.tp
    saved = saved_checkpoints(folder)
    return saved[-1].facts.get("tp") if saved else None


def steps_done(folder: Path, continued: NeoxRun | None) -> int:
    """How many steps a run that is continued has behind it; 0 where there is none."""
    if continued is not None:
        return continued.iteration
    saved = saved_checkpoints(folder)
    return saved[-1].step if saved else 0


def continued_schedule(
    options: ConfigOptions, continued: NeoxRun | None, folder: Path, made: ScheduleConfig
) -> ScheduleConfig:
    """The schedule of the learning rate, where a run of GPT-NeoX is or was continued.

    Args:
        options: the configuration.
        continued: GPT-NeoX's run; None: there is none, or it has been continued in the folder before.
        folder: of the run.
        made: the configuration's schedule.

    Raises:
        ConfigError: two schedules are asked for.
        UsageError: the schedule is not that of the run, as it has to be.
        DataError: the settings in the folder are damaged.
    """
    choice = _schedule_choice(options)
    if continued is not None:
        return neox_schedule.schedule_of_run(continued, made, choice)
    if choice == "checkpoint" and (before := _continued_before(folder)) is not None:
        return ScheduleConfig(**before["schedule"])
    return made


def continued_optimizer(
    options: ConfigOptions, continued: NeoxRun | None, folder: Path, made: TrainingConfig
) -> tuple[TrainingConfig, list[str]]:
    """The training with AdamW's settings, where a run of GPT-NeoX is or was continued, and warnings about them.

    They are those of the run, as DeepSpeed takes them from the optimizer's state, whatever the configuration says.

    Args:
        options: the configuration.
        continued: GPT-NeoX's run; None: there is none, or it has been continued in the folder before.
        folder: of the run.
        made: as the configuration has it.

    Raises:
        DataError: the settings in the folder are damaged.
    """
    kept: dict[str, Any] = {}
    if continued is not None:
        kept = dict(continued.adam)
    elif (before := _continued_before(folder)) is not None:
        kept = {name: before[name] for name in _ADAM} | {"betas": tuple(before["betas"])}
    given = options.part("optimizer").part("optimizer.params").without_nulls()
    warnings = [
        f"{key} stays {_shown(kept[name])}, as the optimizer's state of GPT-NeoX's run has it, and does not become "
        f"{_shown(getattr(made, name))} ({where})"
        for name, key in _ADAM.items()
        if name in kept
        and getattr(made, name) != kept[name]
        and (where := options.where(key) or given.where(key)) is not None
    ]
    return replace(made, **kept), warnings


def schedule_warnings(options: ConfigOptions, continued: NeoxRun) -> list[str]:
    """What to tell people of the schedule of a run of GPT-NeoX that is continued."""
    return neox_schedule.schedule_warnings(continued, _schedule_choice(options))


def _shown(value: object) -> str:
    return " and ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _continued_before(folder: Path) -> dict[str, Any] | None:
    """The training in a folder with checkpoints where GPT-NeoX's run has been continued; None where it has not."""
    before = read_json(folder / SETTINGS) if saved_checkpoints(folder) else {}
    return dict(before["training"]) if before.get("continued") else None


def _schedule_choice(options: ConfigOptions) -> ScheduleChoice:
    """GPT-NeoX's keys for a schedule that is not that of the run to be continued; not both, as it has it.

    Raises:
        ConfigError: both are set.
    """
    configuration, checkpoint = "override_lr_scheduler", "use_checkpoint_lr_scheduler"
    if not options.flag(checkpoint, False):
        return "configuration" if options.flag(configuration, False) else "same"
    if options.flag(configuration, False):
        raise ConfigError(
            f"{configuration} and {checkpoint} cannot both be set",
            code="conflicting_options",
            where=options.where(checkpoint),
            hint="Set one of them to false.",
        )
    return "checkpoint"
