"""``neoxrun finetune``: train a model, or an adapter for it, on own texts."""

from __future__ import annotations

import argparse
import importlib.util
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.checkpoint.stored_vocabulary import stored_vocab_rows
from neoxrun.commands import common, finetune_look
from neoxrun.commands.finetune_continued import (
    continued_optimizer,
    continued_run,
    continued_schedule,
    schedule_warnings,
    steps_done,
    trained_tp,
)
from neoxrun.commands.sampling_args import unescape
from neoxrun.commands.training_args import planned, training_configuration, training_from_args
from neoxrun.config.data_reader import read_data
from neoxrun.config.settings import Settings
from neoxrun.config.training import DataConfig, TrainingConfig
from neoxrun.config.training_request import RunSize, TrainingRequest
from neoxrun.config.typed import ConfigOptions
from neoxrun.engine.vocabulary import check_vocabulary
from neoxrun.errors import UsageError
from neoxrun.launch import launcher
from neoxrun.launch.job import Job
from neoxrun.planning.devices import cpu_device
from neoxrun.planning.finetune import FinetunePlan
from neoxrun.terminal.log import log
from neoxrun.terminal.words import check_unicode, human_bytes
from neoxrun.tokenizer import load_tokenizer
from neoxrun.training.folder import CACHE, NONE_WRITTEN, saved_checkpoints
from neoxrun.training.fp16 import check_fp16
from neoxrun.training.opening import check_not_in_use, check_run_folder
from neoxrun.training.options import FinetuneOptions
from neoxrun.training.run_settings import describe_run
from neoxrun.training.trackers import check_trackers
from neoxrun.training.ways_on import check_resumable

if TYPE_CHECKING:
    from neoxrun.training.data.prepare import PreparedData

_ENGINE: Final = {"deepspeed": "deepspeed", "megatron": "megatron-core"}


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked, say what the run will be, and hand it to the ranks.

    Returns only with ``--dry-run``, and where the run that is to be continued is complete.

    Raises:
        NeoxrunError: the command line, the configuration or the data are wrong, it does not fit, or a package is
            missing.
    """
    settings, options = training_configuration(args)
    if settings.adapter is not None:
        raise UsageError(
            "finetune does not continue the training of an adapter",
            code="conflicting_options",
            hint="Leave --adapter out, or merge it first: `neoxrun convert SOURCE TARGET --adapter DIR`.",
        )
    request, lora = training_from_args(args, settings, options)
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
    leading = common.is_first(args)
    folder = run_folder(args, settings, options)
    resume = args.resume or args.resume_anyway
    continued, not_continued = continued_run(args, settings, options, lora, folder)
    if leading:
        check_not_in_use(folder)
        if not resume:
            check_run_folder(folder, {}, resume=False, anyway=False, continued=continued)
    if args.tp is None:
        args.tp = trained_tp(folder, continued) if resume or continued is not None else None
    found = planned(args, settings, common.devices_from_args(args), request, lora)
    check_fp16(found.sizing.precision, found.sizing.kind)
    if continued is not None:
        continued.check_split(found.plan.tp)
    common.check_files(settings, random_weights=args.random_weights)
    if not args.random_weights:
        _check_tokenizer(settings)
    if leading:
        log.info(f"training {finetune_look.describe_training(found)}")
        log.info(finetune_look.describe_split(found))
        log.info(f"memory: {finetune_look.describe_memory(found)}")
        for note in found.notes:
            log.info(note)
    from neoxrun.training.data.cache import missing_folders, remove_unused  # numpy, which nothing before this needs
    from neoxrun.training.data.found import found_files
    from neoxrun.training.data.noticed import notices
    from neoxrun.training.data.prepare import prepare_data

    with ExitStack() as unless_started:
        unless_started.callback(remove_unused, missing_folders(folder / CACHE))
        prepared = prepare_data(
            data,
            load_tokenizer(settings.tokenizer),
            settings.tokenizer,
            found.plan.vocab_size,
            folder / CACHE,
            show=leading and args.verbosity >= 0,
        )
        train_files, valid_files = found_files(data, prepared)
        training, warnings = settled(request, found, data, prepared)
        if continued is not None:
            continued.check_steps(training.train_iters)
            warnings += continued.row_warnings(training.train_batch_size) + schedule_warnings(options, continued)
        schedule = continued_schedule(options, continued, folder, training.schedule)
        training, unused = continued_optimizer(options, continued, folder, replace(training, schedule=schedule))
        _check_order(found, data, prepared, training.train_iters * training.train_batch_size)
        if leading:
            if continued is not None:
                log.info(f"continuing after step {continued.iteration} of GPT-NeoX's run, with its optimizer's state")
            done = steps_done(folder, continued) if resume or continued is not None else 0
            if resume and not done:
                log.info(f"there is no checkpoint in {folder} to continue from: the run begins with step 1")
            idle = [f"--{name.replace('_', '-')}" for name in ("eval_interval", "eval_iters") if getattr(args, name)]
            if idle and not prepared.valid:
                warnings.append(f"{' and '.join(idle)} without effect: there is nothing to evaluate on (--eval-data)")
            warnings += notices(data, prepared, evaluated=training.eval_iters > 0)
            _say(found, data, prepared, training, folder, [*not_continued, *warnings, *unused], done)
        run_options = FinetuneOptions(
            training=training,
            data=data,
            lora=lora,
            folder=folder,
            train_files=train_files,
            valid_files=valid_files,
            epochs=request.epochs if request.steps is None else None,
            resume=resume,
            resume_anyway=args.resume_anyway,
            sample_prompts=tuple(args.sample_prompt),
            wandb=project,
            tensorboard=args.tensorboard,
            random_weights=args.random_weights,
            continued=continued,
        )
        if leading and resume:
            made = describe_run(settings, found.plan, run_options)
            anyway: bool = args.resume_anyway
            if changed := check_run_folder(folder, made, resume=True, anyway=anyway, continued=continued):
                log.warning(f"the run continues with other settings or data: {'; '.join(changed)}")
        if resume and common.is_alone(args) and _is_complete(folder, training.train_iters):
            return 0
        if leading and resume and (saved := saved_checkpoints(folder)):
            check_resumable(saved[-1].path, settings, found.plan.tp, adapter=lora is not None)
        if args.dry_run:
            return 0
        unless_started.pop_all()
    launcher.run_job(_job(args, settings, found, run_options))


def settled(
    request: TrainingRequest, found: FinetunePlan, data: DataConfig, prepared: PreparedData
) -> tuple[TrainingConfig, list[str]]:
    """The training with everything known, and warnings about it.

    Epochs become steps as in GPT-NeoX: as many as see no row more often. A last step that would not be full is left
    out, unless it is the only one.
    """
    rows = found.batch.rows
    steps = request.steps or max(1, prepared.rows_of_an_epoch(data) * request.epochs // rows)
    size = RunSize(steps, rows, found.share.micro, found.share.recompute, prepared.valid_rows(data))
    training, warnings = request.settle(size, found.share.zero)
    if training.fp32_gradients and found.plan.precisions.weights == "fp16":
        warnings.append("data_types.grad_accum_dtype: fp32 has no effect in fp16, in which gradients are summed")
    return training, warnings


def run_folder(args: argparse.Namespace, settings: Settings, options: ConfigOptions) -> Path:
    """The folder of the run, as an absolute path."""
    if args.output is not None:
        return Path(args.output).absolute()
    save = options.text("save", None)
    return Path(f"finetune-{settings.title.replace(', ', '-')}" if save is None else save).expanduser().absolute()


def _is_complete(folder: Path, steps: int) -> bool:
    """Whether the run in a folder has a checkpoint of its last step, which is said."""
    saved = saved_checkpoints(folder)
    if not saved or saved[-1].step != steps or saved[-1].facts.get("due"):  # as after Ctrl-C in the last evaluation
        return False
    log.info(f"the run is complete: {saved[-1].path} is its last checkpoint")
    return True


def _check_packages(args: argparse.Namespace, *, wandb: bool) -> None:
    for module, package in _ENGINE.items():
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"finetune needs {package}, which is not installed",
                code="missing_package",
                hint="Install it: pip install 'neoxrun[finetune]'",
            )
    check_trackers(wandb=wandb, tensorboard=args.tensorboard)


def _check_tokenizer(settings: Settings) -> None:
    """Refuse a tokenizer that is not the model's, where the files of the weights tell; else the ranks do so."""
    checkpoint = find_configured_checkpoint(settings)
    if (rows := stored_vocab_rows(checkpoint)) is not None:
        check_vocabulary(settings, load_tokenizer(settings.tokenizer), rows, checkpoint.source_tp)


def _check_order(found: FinetunePlan, data: DataConfig, prepared: PreparedData, rows: int) -> None:
    """Refuse so many rows that their order is larger than the memory of this host."""
    plan, host = found.plan, cpu_device()
    need = prepared.order_bytes(data, rows)
    if need * (plan.tp * plan.replicas // plan.nnodes) > host.free_bytes:
        raise UsageError(
            f"the order of {rows:,} rows needs {human_bytes(need)} of memory on each rank, and this host has "
            f"{human_bytes(host.free_bytes)} free",
            code="invalid_value",
            hint="Lower --epochs or --steps (in a configuration, train_iters).",
        )


def _say(
    found: FinetunePlan,
    data: DataConfig,
    prepared: PreparedData,
    training: TrainingConfig,
    folder: Path,
    warnings: list[str],
    done: int,
) -> None:
    rows, valid = prepared.rows_of_an_epoch(data), prepared.valid_rows(data)
    log.info(f"data: {finetune_look.describe_data(prepared.documents, prepared.tokens, rows, valid)}")
    log.info(f"run: {finetune_look.describe_length(training, rows, data.seq_length)}")
    log.info(f"folder: {folder}")
    if speed := finetune_look.describe_speed(found, training, done):
        log.info(f"expected: {speed}")
    unlikely = finetune_look.data_warnings(data, prepared.documents, rows, valid, training.train_batch_size)
    for warning in [*warnings, *unlikely]:
        log.warning(warning)


def _project(args: argparse.Namespace, options: ConfigOptions) -> str | None:
    """The project in Weights & Biases; GPT-NeoX's is called neox where the configuration does not name one."""
    if args.wandb is not None:
        if not args.wandb.strip():
            raise UsageError("--wandb needs the name of a project", code="invalid_value")
        return str(args.wandb)
    entry = options.get("use_wandb")
    return options.text("wandb_project", "neox") if entry is not None and entry.value is True else None


def _job(args: argparse.Namespace, settings: Settings, found: FinetunePlan, options: FinetuneOptions) -> Job:
    return Job(
        "finetune",
        settings,
        found.plan,
        options,
        random_weights=args.random_weights,
        stall_timeout=args.stall_timeout or None,
        verbosity=args.verbosity,
        as_json=args.log_format == "json",
        node_rank=args.node_rank,
        rendezvous=args.rdzv_endpoint,
        patient=True,
        kept=NONE_WRITTEN,
        run=options.folder,
    )
