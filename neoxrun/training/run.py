"""The work of ``neoxrun finetune`` on the ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import IO

import torch

from neoxrun.config.settings import Settings
from neoxrun.engine.pulse import Pulse
from neoxrun.errors import RankError, classify
from neoxrun.generation.interrupt import StopFlag
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.lora import whole_lora
from neoxrun.parallel.mesh import Mesh, share_from_first
from neoxrun.parallel.together import together
from neoxrun.planning.plan import Plan
from neoxrun.terminal.log import log
from neoxrun.training.assembly import Assembled, assemble
from neoxrun.training.checkpoints import Checkpoints
from neoxrun.training.companions import Companions
from neoxrun.training.continuing import continue_neox_run
from neoxrun.training.effort import Effort, peak_of
from neoxrun.training.folder import RunFolder, SavedCheckpoint
from neoxrun.training.loop import Loop, Watching
from neoxrun.training.opening import open_run_folder, write_settings
from neoxrun.training.optimizer_state import OptimizerState
from neoxrun.training.options import FinetuneOptions
from neoxrun.training.report import Report, open_trackers
from neoxrun.training.run_settings import describe_run, evaluation_digest
from neoxrun.training.samples import write_samples
from neoxrun.training.ways_on import reading_checkpoint
from neoxrun.training.weight_files import LayerFiles


def run_finetuning(
    settings: Settings,
    mesh: Mesh,
    plan: Plan,
    options: FinetuneOptions,
    stdout: IO[str],
    show_progress: bool,
    announce: Callable[[], None],
    watch: Callable[[Pulse], AbstractContextManager[object]] = nullcontext,
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
        watch: a context around the training, which watches the passes through the network.

    Raises:
        CheckpointError: the weights are missing, damaged or not those of the configuration.
        DataError: the data cannot be read, or the run's folder cannot be written.
        RankError: a device has too little memory, or the training has diverged.
        Stopped: the run was asked to end; its checkpoint is written.
        UsageError: DeepSpeed is not installed.
    """
    if options.training.deterministic:
        _be_deterministic()
    stop = StopFlag()
    with ExitStack() as stack:
        (folder,) = together(lambda: (_open(stack, settings, mesh, plan, options),), mesh.rank)
        saved: SavedCheckpoint | None = share_from_first(None if folder is None else folder.last)
        weights = None if saved is None or options.lora is not None else saved.path
        with reading_checkpoint(weights):
            assembled = assemble(settings, mesh, plan, options, weights=weights, show_progress=show_progress)
        if mesh.rank == 0 and saved is None:
            for warning in assembled.warnings:
                log.warning(warning)
        made: tuple[int, int] | None = None
        if saved is None and (neox := options.continued) is not None:
            # Before anything else is written: the folder may be GPT-NeoX's, and its state may be refused.
            engine = assembled.trainer.engine
            state = OptimizerState(engine.optimizer, engine.stage)
            made = neox.iteration, together(lambda: continue_neox_run(neox, assembled.stage, state), mesh.rank)
        run = _Run(settings, mesh, plan, options, assembled, folder, saved)
        loop = together(lambda: run.loop(stack, lambda: stop.raised, show_progress=show_progress), mesh.rank)
        if saved is not None:
            with reading_checkpoint(saved.path):
                loop.resume(saved, anyway=options.resume_anyway)
            together(run.note_settings, mesh.rank)
        elif made is not None:
            loop.start_after(*made)
        if mesh.rank == 0:  # before, there is nothing to be kept that would not be, and Ctrl-C ends the process at once
            stop.install()
            announce()
        with watch(assembled.trainer.engine.pulse), _memory_of_a_step(mesh.rank):
            loop.run()


class _Run:
    """What a rank has once everything is loaded, put together.

    Args:
        settings, mesh, plan, options: as for ``run_finetuning``.
        assembled: the model and its rows.
        folder: of the run, on rank 0.
        saved: the checkpoint to continue from; None: there is none.
    """

    def __init__(
        self,
        settings: Settings,
        mesh: Mesh,
        plan: Plan,
        options: FinetuneOptions,
        assembled: Assembled,
        folder: RunFolder | None,
        saved: SavedCheckpoint | None,
    ) -> None:
        self._settings, self._mesh, self._plan, self._options = settings, mesh, plan, options
        self._assembled, self._folder, self._saved = assembled, folder, saved
        self._companions: Companions | None = None

    def loop(self, stack: ExitStack, stopped: Callable[[], bool], *, show_progress: bool) -> Loop:
        """The course of the run; its report is closed with ``stack``.

        Raises:
            DataError: the folder cannot be written, or a tracker cannot be used.
        """
        assembled, options, mesh, folder = self._assembled, self._options, self._mesh, self._folder
        engine, stage = assembled.trainer.engine, assembled.stage
        report = None
        if folder is not None:
            self._companions = Companions(folder, self._settings, stage, assembled.tokenizer, options.lora)
            report = stack.enter_context(self._report(folder, show_progress))
        checkpoints = Checkpoints(
            stage,
            OptimizerState(engine.optimizer, engine.stage),
            options.folder,
            folder,
            None if options.lora is not None else partial(LayerFiles, stage),
            evaluation_digest(describe_run(self._settings, self._plan, options)),
        )
        samples = partial(write_samples, engine, mesh, assembled.tokenizer, options.sample_prompts)
        watching = Watching(report, stopped, samples, self._extra)
        return Loop(assembled.trainer, checkpoints, mesh, options.training, watching)

    def note_settings(self) -> bool:
        """Write the settings with which the run is continued into its folder; whether this rank does so.

        Raises:
            DataError: the system refuses.
        """
        if self._folder is not None:
            write_settings(self._folder, describe_run(self._settings, self._plan, self._options))
        return self._folder is not None

    def _report(self, folder: RunFolder, show_progress: bool) -> Report:
        options = self._options
        made = describe_run(self._settings, self._plan, options)
        return Report(
            folder,
            done=self._done,
            total=options.training.train_iters,
            effort=effort_of(self._assembled.stage, self._plan),
            show_progress=show_progress,
            trackers=open_trackers(folder, made, wandb=options.wandb, tensorboard=options.tensorboard),
        )

    @property
    def _done(self) -> int:
        """Steps that were made before."""
        continued = self._options.continued
        if self._saved is not None:
            return self._saved.step
        return 0 if continued is None else continued.iteration

    def _extra(self) -> Callable[[Path], object]:
        """What belongs to a checkpoint besides layer files and state; all ranks call it, and rank 0 the result."""
        stage, companions = self._assembled.stage, self._companions
        adapter = None
        if self._options.lora is not None:
            trained = [parameter for parameter in stage.parameters() if parameter.requires_grad]
            with self._assembled.trainer.engine.whole(*trained):
                adapter = whole_lora(stage)
        if companions is None:
            return lambda checkpoint: None
        return partial(companions.write, adapter=adapter)


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


def _open(stack: ExitStack, settings: Settings, mesh: Mesh, plan: Plan, options: FinetuneOptions) -> RunFolder | None:
    """The folder of the run, which this process holds from now on; None on all ranks but the first."""
    if mesh.rank:
        return None
    made = describe_run(settings, plan, options)
    return stack.enter_context(
        open_run_folder(
            options.folder, made, resume=options.resume, anyway=options.resume_anyway, continued=options.continued
        )
    )


@contextmanager
def _memory_of_a_step(rank: int) -> Iterator[None]:
    """Where a step needs more memory than there is, say what makes it smaller.

    Raises:
        RankError: it does.
    """
    try:
        yield
    except Exception as error:
        failure = classify(error, rank)
        if failure is error or failure.code != "out_of_memory":
            raise
        raise RankError(
            failure.message,
            code="out_of_memory",
            hint="Lower --micro-batch-size or --seq-length, or give --checkpoint-activations, a greater --tp, or "
            "--offload.",
        ) from error


def _be_deterministic() -> None:
    """Have torch use kernels only that give the same bits each time; cuBLAS reads its workspace's size at its start."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
