"""The work of ``neoxrun finetune`` on the ranks."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from neoxrun.checkpoint.find import find_checkpoint, find_configured_checkpoint
from neoxrun.config.settings import Settings
from neoxrun.config.tensors import parameters
from neoxrun.config.training import LoraConfig
from neoxrun.generation.interrupt import StopFlag
from neoxrun.model.gpt_neox import Stage
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.mesh import Mesh
from neoxrun.planning.plan import Plan
from neoxrun.terminal.log import log
from neoxrun.tokenizer import Tokenizer, load_tokenizer
from neoxrun.training.checkpoints import Checkpoints
from neoxrun.training.companions import Companions
from neoxrun.training.data.build import build_rows
from neoxrun.training.data.prepare import prepare_data
from neoxrun.training.deepspeed_engine import DeepSpeedEngine
from neoxrun.training.effort import Effort, peak_of
from neoxrun.training.folder import CACHE, RunFolder, SavedCheckpoint
from neoxrun.training.loop import Loop, Watching
from neoxrun.training.network import LanguageModel
from neoxrun.training.opening import open_run_folder
from neoxrun.training.optimizer_state import OptimizerState
from neoxrun.training.options import FinetuneOptions
from neoxrun.training.report import Report, open_trackers
from neoxrun.training.rows import Rows
from neoxrun.training.run_settings import describe_run
from neoxrun.training.samples import write_samples
from neoxrun.training.stage import load_training_stage, mark_divided, train_everything, training_form
from neoxrun.training.together import together
from neoxrun.training.trainer import Trainer
from neoxrun.training.weight_files import LayerFiles


@dataclass(frozen=True)
class _Work:
    """What every part of a run needs to know on a rank."""

    settings: Settings
    mesh: Mesh
    plan: Plan
    options: FinetuneOptions
    tokenizer: Tokenizer
    show: bool

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which holds the folder and reports."""
        return self.mesh.rank == 0


def run_finetuning(
    settings: Settings,
    mesh: Mesh,
    plan: Plan,
    options: FinetuneOptions,
    show_progress: bool,
    announce: Callable[[], None],
) -> None:
    """Train, on one of the ranks; all of them call this.

    Args:
        settings: the model.
        mesh: this rank among the others.
        plan: how the model is divided.
        options: the training and its data.
        show_progress: show bars, on rank 0.
        announce: called on rank 0 when it answers Ctrl-C.

    Raises:
        NeoxrunError: the folder, the data or the weights cannot be used, a checkpoint cannot be written, training has
            diverged, or it was asked to stop.
    """
    if options.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    stop = StopFlag()
    if mesh.rank == 0:
        stop.install()
        announce()
    made = describe_run(settings, plan, options)
    with contextlib.ExitStack() as stack:
        opened: list[RunFolder] = []
        with together():
            if mesh.rank == 0:
                holding = open_run_folder(options.folder, made, resume=options.resume, anyway=options.resume_anyway)
                opened.append(stack.enter_context(holding))
        folder = opened[0] if opened else None
        saved: SavedCheckpoint | None = meshes.share_from_first(_last(folder))
        work = _Work(settings, mesh, plan, options, load_tokenizer(settings.tokenizer), show_progress)
        loop = _prepare(work, folder, saved, stack, partial(getattr, stop, "raised"))
        loop.run()
    if mesh.rank == 0:
        log.info(f"the run is complete: {options.folder}")


def _prepare(
    work: _Work,
    folder: RunFolder | None,
    saved: SavedCheckpoint | None,
    stack: contextlib.ExitStack,
    stopped: Callable[[], bool],
) -> Loop:
    """Everything up to the first step."""
    mesh, options, training = work.mesh, work.options, work.options.training
    group = meshes.data_parallel_group(mesh)
    with together():
        stage = _load(work, saved)
    train, valid = _rows(work, stage.vocab_size)
    mark_divided(stage)
    model = LanguageModel(stage, checkpointed=training.checkpoint_activations)
    engine = DeepSpeedEngine(model, mesh, group, training)
    trainer = Trainer(engine, mesh, training, train, valid)
    new_files = None if options.lora is not None else partial(LayerFiles, stage)
    checkpoints = Checkpoints(stage, OptimizerState(engine.optimizer, engine.stage), options.folder, folder, new_files)
    companions, report = None, None
    with together():
        if folder is not None:
            companions = Companions(folder, work.settings, stage, work.tokenizer, options.lora)
            report = stack.enter_context(_report(work, folder, stage, saved))

    def extra() -> Callable[[Path], object]:
        return companions.write if companions is not None else lambda checkpoint: None

    samples = partial(write_samples, engine, mesh, work.tokenizer, options.sample_prompts)
    loop = Loop(trainer, checkpoints, mesh, training, Watching(report, stopped, samples, extra))
    if saved is not None:
        with together():
            checkpoints.restore(saved)
            loop.resume(saved, anyway=options.resume_anyway)
        if report is not None:
            report.tell(f"continuing after step {saved.step} of {training.train_iters}", step=saved.step)
    return loop


def _load(work: _Work, saved: SavedCheckpoint | None) -> Stage:
    """The network, with what is to be trained of it."""
    settings, mesh, lora = work.settings, work.mesh, work.options.lora
    precisions, form = work.plan.precisions, training_form(work.options.training, mesh)
    if work.options.random_weights:
        rows = settings.model.padded_vocab_size(work.tokenizer.vocab_size)
        stage = Stage(settings.model, mesh, rows, mesh.device, precisions, form)
        stage.randomize(settings.seed)
    else:
        if saved is None or lora is not None:
            checkpoint = find_configured_checkpoint(settings)
        else:
            checkpoint = find_checkpoint(saved.path, settings.model)
        stage, warnings = load_training_stage(
            checkpoint, settings.model, mesh, precisions, form, merge=settings.merge, show_progress=work.show
        )
        if work.first and saved is None:
            for warning in warnings:
                log.warning(warning)
    train_everything(stage)
    return stage


def _rows(work: _Work, vocab_size: int) -> tuple[Rows, Rows | None]:
    """The rows of the run. Rank 0 encodes texts first, where the command has not done it; the others find the cache."""
    options, training, data = work.options, work.options.training, work.options.data
    evaluations = 1 + (training.train_iters // training.eval_interval if training.eval_interval else 0)
    found: list[tuple[Rows, Rows | None]] = []
    for turn in (work.first, not work.first):
        with together():
            if turn:
                prepared = prepare_data(
                    data,
                    work.tokenizer,
                    work.settings.tokenizer,
                    vocab_size,
                    options.folder / CACHE,
                    show=work.show,
                )
                rows = training.train_iters * training.train_batch_size
                valid = evaluations * training.eval_iters * training.train_batch_size
                found.append(build_rows(data, prepared, vocab_size, rows, valid, warn=work.first))
    return found[0]


def _report(work: _Work, folder: RunFolder, stage: Stage, saved: SavedCheckpoint | None) -> Report:
    options, mesh = work.options, work.mesh
    made = describe_run(work.settings, work.plan, options)
    trackers = open_trackers(folder, made, wandb=options.wandb, tensorboard=options.tensorboard)
    device = torch.cuda.get_device_name(mesh.device) if mesh.device.type == "cuda" else ""
    return Report(
        folder,
        done=saved.step if saved else 0,
        total=options.training.train_iters,
        effort=_effort(stage, options.lora, peak_of(device, stage.precisions.compute, mesh.tp * mesh.replicas)),
        show_progress=work.show,
        trackers=trackers,
    )


def _effort(stage: Stage, lora: LoraConfig | None, peak: float | None) -> Effort:
    """What a token costs."""
    config, hidden = stage.config, stage.config.hidden_size
    looked_up = {"position_embeddings.weight"} | (set() if config.tie_embeddings else {"word_embeddings.weight"})
    table = parameters(config, stage.vocab_size)
    count = sum(math.prod(entry.shape) for key, entry in table.items() if entry.used and key.name not in looked_up)
    if lora is None:
        return Effort(0, count, peak)
    widths = {
        "query_key_value": 4 * hidden,
        "dense": 2 * hidden,
        "dense_h_to_4h": hidden + config.intermediate_size,
        "dense_4h_to_h": hidden + config.intermediate_size,
    }
    return Effort(count, config.num_layers * lora.rank * sum(widths[target] for target in lora.targets), peak)


def _last(folder: RunFolder | None) -> SavedCheckpoint | None:
    found = [] if folder is None else folder.checkpoints()
    return found[-1] if found else None
