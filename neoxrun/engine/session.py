"""A model that is loaded and ready on this rank."""

from __future__ import annotations

import errno
import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from neoxrun.checkpoint import layout
from neoxrun.checkpoint import load as loading
from neoxrun.config.precisions import Precisions
from neoxrun.config.settings import Settings
from neoxrun.engine.runner import Runner
from neoxrun.errors import CheckpointError, NeoxrunError, RankError
from neoxrun.model.dtypes import device_kind
from neoxrun.model.gpt_neox import Stage
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.mesh import Mesh
from neoxrun.planning.devices import cpu_device
from neoxrun.planning.memory import scoring_tokens, stage_needs, usable_bytes
from neoxrun.terminal.log import log
from neoxrun.terminal.progress import LoadBar
from neoxrun.terminal.words import human_bytes
from neoxrun.tokenizer import Tokenizer
from neoxrun.tokenizer import load as load_tokenizer

# Vocabularies are padded to a multiple of 128 x the tensor-parallel size of the training, at the least.
_PADDING, _WIDEST_TRAINING = 128, 8


@dataclass(frozen=True)
class Session:
    """What commands work with.

    Attributes:
        settings: the configuration.
        mesh: this rank's place.
        runner: this rank's part of the model.
        tokenizer: the model's.
        weights: ``random`` where no checkpoint was loaded, else None.
        max_context: most tokens of a sequence.
        scoring_tokens: most tokens of a pass that only scores, on every rank.
    """

    settings: Settings
    mesh: Mesh
    runner: Runner
    tokenizer: Tokenizer
    weights: str | None
    max_context: int
    scoring_tokens: int


def open_session(
    settings: Settings,
    mesh: Mesh,
    precisions: Precisions,
    *,
    random_weights: bool,
    show_progress: bool,
    max_context: int | None = None,
) -> Session:
    """Build and load this rank's part of the model.

    Every rank calls it; when it fails on one, it fails on all with that one's error.

    Args:
        settings: the configuration.
        mesh: this rank's place.
        precisions: number formats of weights, activations and cache.
        random_weights: do not load a checkpoint.
        show_progress: say how loading goes.
        max_context: keep sequences shorter than the model allows.

    Raises:
        CheckpointError: the weights are missing, damaged or not those of the configuration.
        DataError: the tokenizer cannot be read.
        RankError: a device has too little memory.
    """
    session: Session | None = None
    failure: NeoxrunError | None = None
    warnings: list[str] = []
    model: object = "random weights"
    try:
        tokenizer = load_tokenizer(settings.tokenizer)
        if random_weights:
            warnings.append("the weights are random (--random-weights): the text means nothing")
            stage = _random(settings, mesh, precisions, tokenizer)
        else:
            stage, model = _loaded(settings, mesh, precisions, tokenizer, show_progress, warnings)
        stage.pack()
        cache_bytes = _cache_bytes(mesh, stage)
        session = Session(
            settings,
            mesh,
            Runner(stage, cache_bytes),
            tokenizer,
            weights="random" if random_weights else None,
            max_context=max_context or settings.model.max_context,
            scoring_tokens=scoring_tokens(
                settings.model,
                tensor=mesh.tp,
                compute=precisions.compute,
                kind=device_kind(mesh.device),
                spare=cache_bytes,
            ),
        )
    except NeoxrunError as error:
        failure = error
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, OSError) as error:
        failure = out_of_memory(error, mesh.rank)
        if failure is None:
            raise
    said: dict[str, None] = {}
    others = meshes.gather_from_all((failure, model, warnings, session and session.scoring_tokens))
    for other_failure, _, other_warnings, _ in others:
        if other_failure is not None:
            other_failure.shared = True
            raise other_failure
        said |= dict.fromkeys(other_warnings)
    for rank, (_, other_model, _, _) in enumerate(others):
        if other_model != others[0][1]:
            differing = CheckpointError(
                f"rank {rank} has another checkpoint or tokenizer than rank 0",
                hint="Give every host the same files, and the same `latest` or --set iteration=N.",
            )
            differing.shared = True
            raise differing
    for warning in said if mesh.rank == 0 else ():
        log.warning(warning)
    assert session is not None
    return replace(session, scoring_tokens=min(tokens for *_, tokens in others))


def out_of_memory(error: BaseException, rank: int) -> RankError | None:
    """``error`` as a clear one if it says that memory ran out, else None."""
    text = str(error)
    wanting = (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "DefaultCPUAllocator" in text
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )
    if not wanting:
        return None
    match = re.search(r"tried to allocate ([\d.]+) (\w+)", text, re.IGNORECASE)
    wanted = ""
    if match:
        amount = human_bytes(int(match[1])) if match[2] == "bytes" else f"{match[1]} {match[2]}"
        wanted = f", which asked for {amount} more"
    return RankError(
        f"out of memory on rank {rank}{wanted}",
        hint="Lower --batch-size, spread the model over more devices (--tp, --pp), or see `neoxrun plan`.",
    )


def device_of(kind: str, gpus: tuple[int, ...], local_rank: int) -> torch.device:
    """The device of a local rank."""
    return torch.device("cuda", gpus[local_rank]) if kind == "cuda" else torch.device("cpu")


def _random(settings: Settings, mesh: Mesh, precisions: Precisions, tokenizer: Tokenizer) -> Stage:
    vocab_size = settings.model.padded_vocab_size(tokenizer.vocab_size)
    stage = Stage(settings.model, mesh, vocab_size, mesh.device, precisions)
    stage.randomize(settings.seed)
    return stage


def _loaded(
    settings: Settings,
    mesh: Mesh,
    precisions: Precisions,
    tokenizer: Tokenizer,
    show_progress: bool,
    warnings: list[str],
) -> tuple[Stage, object]:
    """The stage, and what tells the model's files from those of another."""
    config = settings.model
    checkpoint = layout.of(settings)
    warnings.extend(checkpoint.warnings)
    vocab_size = loading.vocab_rows(checkpoint, config)
    ranks = max(_WIDEST_TRAINING, config.model_parallel_size, checkpoint.source_tp)
    padding = max(_PADDING, config.make_vocab_size_divisible_by) * ranks
    if not tokenizer.vocab_size <= vocab_size < tokenizer.vocab_size + padding:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} entries, but the checkpoint's vocabulary has {vocab_size}",
            where=str(settings.tokenizer.vocab_file),
            hint="Give the tokenizer that the model was trained with (--tokenizer FILE).",
        )
    stage = Stage(config, mesh, vocab_size, mesh.device, precisions)
    total = sum(math.prod(shape) for shape in stage.targets().values()) * stage.weights_dtype.itemsize
    with LoadBar(total, show_progress) as bar:
        averaged = loading.load(
            checkpoint,
            stage.targets(),
            stage.assign,
            config=config,
            tp_rank=mesh.tp_rank,
            tp_size=mesh.tp,
            device=mesh.device,
            dtype=stage.weights_dtype,
            progress=bar.update,
        )
    if averaged:
        warnings.append(
            f"the norms of the checkpoint's {checkpoint.source_tp} tensor-parallel ranks differ and are averaged, "
            f"which changes the results a little; --tp {checkpoint.source_tp} computes them as they are"
        )
    shard = sum(parameter.nbytes for parameter in stage.parameters()) / 1e6
    log.debug(f"shard of {shard:.1f} MB, peak host memory {_peak_bytes() / 1e6:.1f} MB")
    return stage, (checkpoint.kind, checkpoint.tag, checkpoint.total_bytes, vocab_size, tokenizer.vocab_size)


def _peak_bytes() -> int:
    """Most memory that this process has had; ``ru_maxrss`` would count what its parent had when it was started."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _cache_bytes(mesh: Mesh, stage: Stage) -> int:
    """Bytes that this rank's key-value cache may take: what is free now, less the workspace of a forward pass."""
    if mesh.device.type == "cuda":
        free = torch.cuda.mem_get_info(mesh.device)[0]
    else:
        # All ranks of the host take from the same memory.
        free = cpu_device().free_bytes // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needs = stage_needs(
        stage.config,
        stage.vocab_size,
        tensor=mesh.tp,
        pipeline=mesh.pp,
        precisions=stage.precisions,
        kind=device_kind(mesh.device),
        context=stage.config.max_context,
    )
    return max(0, usable_bytes(free) - needs[mesh.stage].workspace_bytes)
