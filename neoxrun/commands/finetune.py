"""``neoxrun finetune``: train a model, or an adapter for it, on own texts."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.checkpoint.stored_vocabulary import stored_vocab_rows
from neoxrun.commands import common, finetune_look
from neoxrun.commands.finetune_continued import (
    continued_optimizer,
    continued_schedule,
    schedule_warnings,
    steps_done,
    trained_tp,
)
from neoxrun.commands.finetune_request import FinetuneRequest, read_request
from neoxrun.commands.training_args import planned
from neoxrun.config.settings import Settings
from neoxrun.config.training import DataConfig, TrainingConfig
from neoxrun.config.training_request import RunSize, TrainingRequest
from neoxrun.engine.vocabulary import check_vocabulary
from neoxrun.errors import UsageError
from neoxrun.launch import launcher
from neoxrun.launch.job import Job
from neoxrun.planning.devices import cpu_device
from neoxrun.planning.finetune import FinetunePlan
from neoxrun.terminal.log import log
from neoxrun.terminal.words import human_bytes
from neoxrun.tokenizer import Tokenizer, load_tokenizer
from neoxrun.training.folder import CACHE, NONE_WRITTEN, saved_checkpoints
from neoxrun.training.fp16 import check_fp16
from neoxrun.training.opening import check_not_in_use, check_run_folder
from neoxrun.training.options import FinetuneOptions
from neoxrun.training.run_settings import describe_run
from neoxrun.training.ways_on import check_resumable

if TYPE_CHECKING:
    from neoxrun.training.data.prepare import PreparedData


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked, say what the run will be, and hand it to the ranks.

    Returns only with ``--dry-run``, and where the run that is to be continued is complete.

    Raises:
        NeoxrunError: the command line, the configuration or the data are wrong, it does not fit, or a package is
            missing.
    """
    asked = read_request(args)
    found = _planned(args, asked)
    tokenizer = load_tokenizer(asked.settings.tokenizer)
    if not args.random_weights:
        _check_vocabulary(asked.settings, tokenizer)
    if asked.leading:
        _say_plan(found)
    from neoxrun.training.data.cache import missing_folders, remove_unused  # numpy, which nothing before this needs
    from neoxrun.training.data.prepare import prepare_data

    with ExitStack() as unless_started:
        unless_started.callback(remove_unused, missing_folders(asked.folder / CACHE))
        show = asked.leading and args.verbosity >= 0
        cache, vocab_size = asked.folder / CACHE, found.plan.vocab_size
        prepared = prepare_data(asked.data, tokenizer, asked.settings.tokenizer, vocab_size, cache, show=show)
        training, warnings = _training(asked, found, prepared)
        options = _options(args, asked, training, prepared)
        if asked.leading:
            _say_run(asked, found, prepared, training, [*warnings, *_without_effect(args, prepared)])
        complete = asked.resume and _check_resumed(args, asked, found, options)
        if complete or args.dry_run:
            return 0
        unless_started.pop_all()
    launcher.run_job(_job(args, asked.settings, found, options))


def _planned(args: argparse.Namespace, asked: FinetuneRequest) -> FinetunePlan:
    """How the training is divided, once its folder and its model have been checked."""
    continued = asked.continued
    if asked.leading:
        check_not_in_use(asked.folder)
        if not asked.resume:
            check_run_folder(asked.folder, {}, resume=False, anyway=False, continued=continued)
    if args.tp is None and (asked.resume or continued is not None):
        args.tp = trained_tp(asked.folder, continued)
    found = planned(args, asked.settings, common.devices_from_args(args), asked.training, asked.lora)
    check_fp16(found.sizing.precision, found.sizing.kind)
    if continued is not None:
        continued.check_split(found.plan.tp)
    common.check_files(asked.settings, random_weights=args.random_weights)
    return found


def _training(asked: FinetuneRequest, found: FinetunePlan, prepared: PreparedData) -> tuple[TrainingConfig, list[str]]:
    """The training with everything known, also of a run that it continues, and warnings about it."""
    training, warnings = settled(asked.training, found, asked.data, prepared)
    continued, options = asked.continued, asked.options
    if continued is not None:
        continued.check_steps(training.train_iters)
        warnings += continued.row_warnings(training.train_batch_size) + schedule_warnings(options, continued)
    schedule = continued_schedule(options, continued, asked.folder, training.schedule)
    training, unused = continued_optimizer(options, continued, asked.folder, replace(training, schedule=schedule))
    _check_order(found, asked.data, prepared, training.train_iters * training.train_batch_size)
    return training, [*asked.warnings, *warnings, *unused]


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


def _options(
    args: argparse.Namespace, asked: FinetuneRequest, training: TrainingConfig, prepared: PreparedData
) -> FinetuneOptions:
    from neoxrun.training.data.found import found_files  # numpy

    train_files, valid_files = found_files(asked.data, prepared)
    return FinetuneOptions(
        training=training,
        data=asked.data,
        lora=asked.lora,
        folder=asked.folder,
        train_files=train_files,
        valid_files=valid_files,
        epochs=asked.training.epochs if asked.training.steps is None else None,
        resume=asked.resume,
        resume_anyway=args.resume_anyway,
        sample_prompts=tuple(args.sample_prompt),
        wandb=asked.project,
        tensorboard=args.tensorboard,
        random_weights=args.random_weights,
        continued=asked.continued,
    )


def _check_resumed(
    args: argparse.Namespace, asked: FinetuneRequest, found: FinetunePlan, options: FinetuneOptions
) -> bool:
    """Check that the run in the folder can be continued like this.

    Returns:
        Whether nothing is left to do, which is said.

    Raises:
        CheckpointError: its last checkpoint is damaged.
        DataError: the run cannot be continued like this.
    """
    folder, settings = asked.folder, asked.settings
    if asked.leading:
        made, anyway = describe_run(settings, found.plan, options), options.resume_anyway
        if changed := check_run_folder(folder, made, resume=True, anyway=anyway, continued=asked.continued):
            log.warning(f"the run continues with other settings or data: {'; '.join(changed)}")
    saved = saved_checkpoints(folder)
    if not saved:
        return False
    last = saved[-1]
    # As after Ctrl-C in the last evaluation, something may be left to do.
    if common.is_alone(args) and last.step == options.training.train_iters and not last.facts.get("due"):
        log.info(f"the run is complete: {last.path} is its last checkpoint")
        return True
    if asked.leading:
        check_resumable(last.path, settings, found.plan.tp, adapter=asked.lora is not None)
    return False


def _check_vocabulary(settings: Settings, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that is not the model's, where the files of the weights tell; else the ranks do so."""
    checkpoint = find_configured_checkpoint(settings)
    if (rows := stored_vocab_rows(checkpoint)) is not None:
        check_vocabulary(settings, tokenizer, rows, checkpoint.source_tp)


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


def _say_plan(found: FinetunePlan) -> None:
    log.info(f"training {finetune_look.describe_training(found)}")
    log.info(finetune_look.describe_split(found))
    log.info(f"memory: {finetune_look.describe_memory(found)}")
    for note in found.notes:
        log.info(note)


def _say_run(
    asked: FinetuneRequest, found: FinetunePlan, prepared: PreparedData, training: TrainingConfig, warnings: list[str]
) -> None:
    from neoxrun.training.data.noticed import notices  # numpy

    data, folder, continued = asked.data, asked.folder, asked.continued
    if continued is not None:
        log.info(f"continuing after step {continued.iteration} of GPT-NeoX's run, with its optimizer's state")
    done = steps_done(folder, continued) if asked.resume or continued is not None else 0
    if asked.resume and not done:
        log.info(f"there is no checkpoint in {folder} to continue from: the run begins with step 1")
    rows, valid = prepared.rows_of_an_epoch(data), prepared.valid_rows(data)
    log.info(f"data: {finetune_look.describe_data(prepared.documents, prepared.tokens, rows, valid)}")
    log.info(f"run: {finetune_look.describe_length(training, rows, data.seq_length)}")
    log.info(f"folder: {folder}")
    if speed := finetune_look.describe_speed(found, training, done):
        log.info(f"expected: {speed}")
    noticed = notices(data, prepared, evaluated=training.eval_iters > 0)
    unlikely = finetune_look.data_warnings(data, prepared.documents, rows, valid, training.train_batch_size)
    for warning in [*warnings, *noticed, *unlikely]:
        log.warning(warning)


def _without_effect(args: argparse.Namespace, prepared: PreparedData) -> list[str]:
    """A warning about options of evaluations, where there are none."""
    idle = [f"--{name.replace('_', '-')}" for name in ("eval_interval", "eval_iters") if getattr(args, name)]
    if not idle or prepared.valid:
        return []
    return [f"{' and '.join(idle)} without effect: there is nothing to evaluate on (--eval-data)"]


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
