"""Which run of GPT-NeoX ``neoxrun finetune`` continues, and how, by the configuration's own keys."""

from __future__ import annotations

import argparse
from pathlib import Path

from neoxrun.checkpoint.neox_run import NeoxRun, ScheduleChoice, find_neox_run
from neoxrun.config.settings import Settings
from neoxrun.config.training import LoraConfig, ScheduleConfig
from neoxrun.config.typed import ConfigOptions
from neoxrun.errors import ConfigError
from neoxrun.training.folder import SETTINGS, read_json, saved_checkpoints


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
        return continued.continued_schedule(made, choice)
    if choice == "checkpoint" and saved_checkpoints(folder):
        before = read_json(folder / SETTINGS)
        return ScheduleConfig(**before["training"]["schedule"]) if before.get("continued") else made
    return made


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
