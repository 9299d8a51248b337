"""A rank's part of a fine-tuning, put together: the network, its adapters, the rows and the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from neoxrun.checkpoint.find import find_checkpoint, find_configured_checkpoint
from neoxrun.checkpoint.load import read_vocab_rows
from neoxrun.config.settings import Settings
from neoxrun.engine.vocabulary import check_vocabulary
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.lora import add_lora
from neoxrun.parallel.mesh import Mesh, data_parallel_group
from neoxrun.parallel.together import together
from neoxrun.planning.plan import Plan
from neoxrun.tokenizer import Tokenizer, load_tokenizer
from neoxrun.training.data.build import build_rows
from neoxrun.training.data.prepare import prepare_data
from neoxrun.training.deepspeed_engine import DeepSpeedEngine
from neoxrun.training.folder import CACHE
from neoxrun.training.network import LanguageModel
from neoxrun.training.options import FinetuneOptions
from neoxrun.training.rows import Rows
from neoxrun.training.stage import load_training_stage, mark_divided, train_everything, training_form
from neoxrun.training.trainer import Trainer


@dataclass(frozen=True)
class Assembled:
    """What the ranks train with.

    Attributes:
        tokenizer: the model's.
        stage: this rank's part of the network.
        trainer: makes the steps.
        warnings: what people should know about the weights.
    """

    tokenizer: Tokenizer
    stage: Stage
    trainer: Trainer
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Loaded:
    tokenizer: Tokenizer
    stage: Stage
    rows: tuple[Rows, Rows | None]
    warnings: list[str]


def assemble(
    settings: Settings,
    mesh: Mesh,
    plan: Plan,
    options: FinetuneOptions,
    *,
    weights: Path | None = None,
    show_progress: bool,
) -> Assembled:
    """Load and build everything; all ranks call it.

    Args:
        settings: the model.
        mesh: this rank among the others.
        plan: number formats.
        options: the run.
        weights: a checkpoint to begin with instead of the configuration's.
        show_progress: say how loading goes.

    Raises:
        CheckpointError: the weights are missing, damaged or not those of the configuration.
        DataError: the data or the tokenizer cannot be read.
        RankError: a device has too little memory.
    """
    loaded = together(lambda: _load(settings, mesh, plan, options, weights, show_progress=show_progress), mesh.rank)
    training = options.training
    model = LanguageModel(loaded.stage, checkpointed=training.checkpoint_activations)
    # Not within `together`: the ranks wait for each other here.
    engine = DeepSpeedEngine(model, mesh, data_parallel_group(mesh), training)
    trainer = Trainer(engine, mesh, training, *loaded.rows)
    return Assembled(loaded.tokenizer, loaded.stage, trainer, tuple(loaded.warnings))


def _load(
    settings: Settings, mesh: Mesh, plan: Plan, options: FinetuneOptions, weights: Path | None, *, show_progress: bool
) -> _Loaded:
    """What a rank does by itself."""
    training, data = options.training, options.data
    tokenizer = load_tokenizer(settings.tokenizer)
    stage, warnings = _stage(settings, mesh, plan, options, tokenizer, weights, show_progress=show_progress)
    if options.lora is None:
        train_everything(stage)
    else:
        add_lora(stage, options.lora, training.seed)
    mark_divided(stage)
    prepared = prepare_data(
        data, tokenizer, settings.tokenizer, stage.vocab_size, options.folder / CACHE, show=show_progress
    )
    # GPT-NeoX's numbers of rows: on them depends how many epochs are shuffled together.
    streamed = data.eval_stream and training.eval_interval
    evaluations = training.train_iters // training.eval_interval + 1 if streamed else 1
    rows = build_rows(
        data,
        prepared,
        stage.vocab_size,
        training.train_iters * training.train_batch_size,
        evaluations * training.eval_iters * training.train_batch_size,
    )
    return _Loaded(tokenizer, stage, rows, warnings)


def _stage(
    settings: Settings,
    mesh: Mesh,
    plan: Plan,
    options: FinetuneOptions,
    tokenizer: Tokenizer,
    weights: Path | None,
    *,
    show_progress: bool,
) -> tuple[Stage, list[str]]:
    form = training_form(options.training, mesh)
    if options.random_weights and weights is None:
        vocab_size = settings.model.padded_vocab_size(tokenizer.vocab_size)
        stage = Stage(settings.model, mesh, vocab_size, mesh.device, plan.precisions, form)
        stage.randomize(settings.seed)
        return stage, ["the weights are random (--random-weights): what is learned means little"]
    if weights is None:
        checkpoint = find_configured_checkpoint(settings)
    else:
        checkpoint = find_checkpoint(weights, settings.model)
    check_vocabulary(settings, tokenizer, read_vocab_rows(checkpoint, settings.model), checkpoint.source_tp)
    stage, warnings = load_training_stage(
        checkpoint, settings.model, mesh, plan.precisions, form, merge=settings.merge, show_progress=show_progress
    )
    if mesh.device.type == "cuda":
        torch.cuda.empty_cache()  # what loading needed is the engine's now
    return stage, [*checkpoint.warnings, *warnings]
