"""The work of ``neoxrun finetune`` on the ranks."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO

import torch

from neoxrun.config.settings import Settings
from neoxrun.config.training import TrainingConfig
from neoxrun.model.gpt_neox import Stage
from neoxrun.parallel.mesh import Mesh
from neoxrun.parallel.together import together
from neoxrun.planning.plan import Plan
from neoxrun.terminal.log import log
from neoxrun.training.assembly import assemble
from neoxrun.training.effort import Effort, peak_of
from neoxrun.training.opening import open_run_folder
from neoxrun.training.options import FinetuneOptions
from neoxrun.training.report import Report, StepFacts, open_trackers
from neoxrun.training.run_settings import describe_run
from neoxrun.training.trainer import StepResult, Trainer


def run_finetuning(
    settings: Settings,
    mesh: Mesh,
    plan: Plan,
    options: FinetuneOptions,
    stdout: IO[str],
    show_progress: bool,
    announce: Callable[[], None],
) -> None:
    """Train, as one of the ranks.

    Args:
        settings: the model.
        mesh: this rank among the others.
        plan: how the model is divided, and its number formats.
        options: the run.
        stdout: takes nothing: the run's folder has the results.
        show_progress: show on stderr how it goes.
        announce: called when rank 0 has taken over Ctrl-C.

    Raises:
        CheckpointError: the weights are missing, damaged or not those of the configuration.
        DataError: the data cannot be read, or the run's folder cannot be written.
        RankError: a device has too little memory.
        UsageError: DeepSpeed is not installed.
    """
    if options.training.deterministic:
        _be_deterministic()
    assembled = assemble(settings, mesh, plan, options, show_progress=show_progress)
    if mesh.rank == 0:
        for warning in assembled.warnings:
            log.warning(warning)
    effort = effort_of(assembled.stage, plan)
    with ExitStack() as stack:
        opened = together(lambda: [_report(stack, settings, mesh, plan, options, effort, show_progress)], mesh.rank)
        train(assembled.trainer, options.training, opened[0])


def train(trainer: Trainer, training: TrainingConfig, report: Report | None) -> None:
    """All steps and evaluations of a run.

    Args:
        trainer: makes them.
        training: how many there are.
        report: is told of them, on rank 0.
    """
    evaluations = 0

    def evaluate(step: int) -> None:
        nonlocal evaluations
        if trainer.valid is not None:
            loss = trainer.evaluate(evaluations)
            evaluations += 1
            if report is not None:
                report.evaluated(step, loss)

    evaluate(0)
    for step in range(1, training.train_iters + 1):
        result = trainer.step(step - 1)
        if report is not None:
            report.step(_facts(step, result))
        if step == training.train_iters or (training.eval_interval and step % training.eval_interval == 0):
            evaluate(step)


def effort_of(stage: Stage, plan: Plan) -> Effort:
    """What a token of the whole model costs, and what the devices give.

    Args:
        stage: this rank's part: what is divided is as large on every rank.
        plan: how many ranks there are.
    """
    counts = {False: 0, True: 0}
    for key, parameter in stage.keyed_parameters().items():
        if key.layer or stage.config.tie_embeddings:
            size = getattr(parameter, "ds_numel", parameter.numel())  # of all that ZeRO has divided
            divided = getattr(parameter, "model_parallel", False)
            counts[parameter.requires_grad] += size * (stage.mesh.tp if divided else 1)
    peak = None
    if stage.device.type == "cuda":
        name = torch.cuda.get_device_name(stage.device)
        peak = peak_of(name, plan.precisions.compute, plan.world_size)
    return Effort(frozen=counts[False], trained=counts[True], peak=peak)


def _report(
    stack: ExitStack,
    settings: Settings,
    mesh: Mesh,
    plan: Plan,
    options: FinetuneOptions,
    effort: Effort,
    show_progress: bool,
) -> Report | None:
    """The report of a run, whose folder this process holds from now on; None on all ranks but the first."""
    if mesh.rank:
        return None
    made = describe_run(settings, plan, options)
    folder = stack.enter_context(
        open_run_folder(options.folder, made, resume=options.resume, anyway=options.resume_anyway)
    )
    trackers = open_trackers(folder, made, wandb=options.wandb, tensorboard=options.tensorboard)
    report = Report(
        folder,
        done=0,
        total=options.training.train_iters,
        effort=effort,
        show_progress=show_progress,
        trackers=trackers,
    )
    return stack.enter_context(report)


def _facts(step: int, result: StepResult) -> StepFacts:
    norm = result.grad_norm if result.applied else None
    return StepFacts(step, result.loss, result.lr, norm, result.tokens, result.seconds, skipped=not result.applied)


def _be_deterministic() -> None:
    """Have torch use kernels only that give the same bits each time; cuBLAS reads its workspace's size at its start."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
