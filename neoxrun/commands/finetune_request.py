"""What ``neoxrun finetune`` is asked for, by its command line and the configuration, before anything is planned."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neoxrun.checkpoint.neox_run import NeoxRun
from neoxrun.commands import common
from neoxrun.commands.finetune_continued import continued_run
from neoxrun.commands.sampling_args import unescape
from neoxrun.commands.training_args import training_configuration, training_from_args
from neoxrun.config.data_reader import read_data
from neoxrun.config.settings import Settings
from neoxrun.config.training import DataConfig, LoraConfig
from neoxrun.config.training_request import TrainingRequest
from neoxrun.config.typed import ConfigOptions
from neoxrun.errors import UsageError
from neoxrun.terminal.words import check_unicode
from neoxrun.training.trackers import check_trackers

_ENGINE: Final = {"deepspeed": "deepspeed", "megatron": "megatron-core"}


@dataclass(frozen=True)
class FinetuneRequest:
    """A fine-tuning as it is asked for.

    Attributes:
        settings: the model.
        options: the configuration, with flags over it.
        training: how to train; what depends on replicas, memory and data is open.
        lora: the adapters to train; None: the whole model.
        data: on what.
        project: in Weights & Biases; None: none.
        folder: of the run, as an absolute path.
        resume: continue the run in it, if there is one.
        continued: the run of GPT-NeoX to continue; None: none.
        warnings: what is done otherwise than the configuration asks for.
        leading: whether this process is the one that talks to people, of those on several hosts.
    """

    settings: Settings
    options: ConfigOptions
    training: TrainingRequest
    lora: LoraConfig | None
    data: DataConfig
    project: str | None
    folder: Path
    resume: bool
    continued: NeoxRun | None
    warnings: tuple[str, ...]
    leading: bool


def read_request(args: argparse.Namespace) -> FinetuneRequest:
    """Read and check the command line and the configuration.

    Raises:
        NeoxrunError: one of them is wrong, the files of a run to be continued are, or a package is missing.
    """
    settings, options = training_configuration(args)
    if settings.adapter is not None:
        raise UsageError(
            "finetune does not continue the training of an adapter",
            code="conflicting_options",
            hint="Leave --adapter out, or merge it first: `neoxrun convert SOURCE TARGET --adapter DIR`.",
        )
    training, lora = training_from_args(args, settings, options)
    end = unescape(args.document_end)
    data = read_data(options, settings, packed=not args.no_pack, column=args.column, document_end=end)
    if args.split is not None and data.valid:
        raise UsageError(
            "--split and separate data to evaluate on cannot be combined",
            code="conflicting_options",
            hint="Leave --split out, or --eval-data (in a configuration, valid_data_paths).",
        )
    for text in (args.column, *args.sample_prompt):
        check_unicode(text)
    project = _project(args, options)
    _check_packages(args, wandb=project is not None)
    folder = _run_folder(args, settings, options)
    continued, warnings = continued_run(args, settings, options, lora, folder)
    return FinetuneRequest(
        settings=settings,
        options=options,
        training=training,
        lora=lora,
        data=data,
        project=project,
        folder=folder,
        resume=args.resume or args.resume_anyway,
        continued=continued,
        warnings=tuple(warnings),
        leading=common.is_first(args),
    )


def _run_folder(args: argparse.Namespace, settings: Settings, options: ConfigOptions) -> Path:
    """The folder of the run, as an absolute path."""
    if args.output is not None:
        return Path(args.output).absolute()
    save = options.text("save", None)
    return Path(f"finetune-{settings.title.replace(', ', '-')}" if save is None else save).expanduser().absolute()


def _check_packages(args: argparse.Namespace, *, wandb: bool) -> None:
    for module, package in _ENGINE.items():
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"finetune needs {package}, which is not installed",
                code="missing_package",
                hint="Install it: pip install 'neoxrun[finetune]'",
            )
    check_trackers(wandb=wandb, tensorboard=args.tensorboard)


def _project(args: argparse.Namespace, options: ConfigOptions) -> str | None:
    """The project in Weights & Biases; GPT-NeoX's is called neox where the configuration does not name one."""
    if args.wandb is not None:
        if not args.wandb.strip():
            raise UsageError("--wandb needs the name of a project", code="invalid_value")
        return str(args.wandb)
    entry = options.get("use_wandb")
    return options.text("wandb_project", "neox") if entry is not None and entry.value is True else None
