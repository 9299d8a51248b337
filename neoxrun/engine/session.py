"""A model that is loaded and ready on this rank."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from neoxrun.checkpoint.adapter import open_configured_adapter
from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.checkpoint.load import load_weights, read_vocab_rows
from neoxrun.checkpoint.merge import describe_approximations
from neoxrun.config.limits import PREFILL_TOKENS
from neoxrun.config.precisions import Precisions
from neoxrun.config.settings import Settings
from neoxrun.engine.connect import connect_gpus
from neoxrun.engine.engine import Engine
from neoxrun.engine.replica import Replica
from neoxrun.engine.runner import Runner
from neoxrun.engine.vocabulary import check_vocabulary
from neoxrun.errors import CheckpointError
from neoxrun.model.dtypes import DTYPES, device_kind
from neoxrun.model.gpt_neox import Stage
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.background import in_background
from neoxrun.parallel.mesh import Mesh
from neoxrun.parallel.together import attempt
from neoxrun.planning.devices import cpu_device
from neoxrun.planning.memory import MAX_BATCH, scoring_tokens, stage_needs, usable_bytes
from neoxrun.terminal.log import log
from neoxrun.terminal.progress import Bar
from neoxrun.tokenizer import Tokenizer, load_tokenizer

_T = TypeVar("_T")


@dataclass(frozen=True)
class Session:
    """What commands work with.

    Attributes:
        settings: the configuration.
        mesh: this rank among the others.
        replica: the model that this rank is part of.
        tokenizer: the model's.
        weights: ``random`` where no checkpoint was loaded, else None.
        warnings: what people should know about the weights, of all ranks; on rank 0 only.
        max_context: most tokens of a sequence.
        most_scored: most tokens of a pass that only scores while no engine is open, on every rank.
        loading_seconds: how long this rank took to build its part and fill it.
    """

    settings: Settings
    mesh: Mesh
    replica: Replica
    tokenizer: Tokenizer
    weights: str | None
    max_context: int
    most_scored: int
    warnings: tuple[str, ...] = ()
    loading_seconds: float = 0.0

    def start_engine(self, *, requests: int, length: int, batch_size: int | None = None) -> Engine:
        """An engine just large enough for its work, on a leader; see ``Replica.start_engine``.

        Args:
            requests: how many there will be.
            length: most tokens of one, prompt and output; the context bounds it.
            batch_size: most requests at a time; None: what fits, at most 256 on a GPU and 64 on the CPU.

        Raises:
            RankError: not even one sequence fits the memory.
        """
        return self.replica.start_engine(
            slots=min(batch_size or MAX_BATCH[device_kind(self.mesh.device)], requests),
            length=min(length, self.max_context),
            ends={*self.settings.end_ids, *(() if self.tokenizer.eod is None else (self.tokenizer.eod,))},
        )

    def close(self) -> None:
        """Give the cache's memory back, and leave the other ranks."""
        self.replica.runner.close()  # its graphs hold collectives of the groups
        meshes.disconnect_ranks()

    def scoring_budget(self) -> int:
        """Most tokens of a pass that only scores, on every rank.

        Scoring needs no cache, so that its passes may fill the memory set aside for one, and those of a small model
        on a GPU are eight times larger then. While an engine holds its cache, a pass must fit the workspace instead,
        which is made for ``PREFILL_TOKENS``. (With a cache that fills an H100, such passes left 4.8 GB free at the
        shape of Pythia-160M and 3.3 GB at that of the 20B.) So whoever scores a lot closes the engine first, as
        ``evaluate`` does.
        """
        return min(self.most_scored, PREFILL_TOKENS) if self.replica.holds_cache else self.most_scored


def open_session(
    settings: Settings,
    mesh: Mesh,
    precisions: Precisions,
    *,
    random_weights: bool,
    show_progress: bool,
    max_context: int | None = None,
    eager: bool = False,
) -> Session:
    """Build and load this rank's part of the model.

    Every rank calls it; when it fails on one, it fails on all with that one's error.

    Args:
        settings: the configuration.
        mesh: this rank among the others.
        precisions: number formats of weights, activations and cache.
        random_weights: do not load a checkpoint.
        show_progress: say how loading goes.
        max_context: keep sequences shorter than the model allows.
        eager: capture no CUDA graphs.

    Raises:
        CheckpointError: the weights are missing, damaged or not those of the configuration.
        DataError: the tokenizer cannot be read.
        RankError: a device has too little memory.
    """
    warnings: list[str] = []
    start = time.perf_counter()
    # A rank whose weights cannot be loaded connects, too: the others wait for it there.
    connect = partial(connect_gpus, mesh, settings.model.hidden_size, DTYPES[precisions.compute])
    connecting = in_background(connect) if mesh.device.type == "cuda" else None
    build = (
        partial(_random, settings, mesh, precisions, warnings)
        if random_weights
        else partial(_loaded, settings, mesh, precisions, show_progress, warnings)
    )
    built, failure = attempt(build, mesh.rank)
    loading = time.perf_counter() - start
    # Not caught: a rank that cannot connect ends, and then the others are ended.
    peers = None if connecting is None else connecting.result()
    session, model = None, None
    if built is not None:
        tokenizer, stage, model = built
        stage.residual.peers = peers

        def finish() -> Session:
            cache_bytes = _cache_bytes(mesh, stage)
            return Session(
                settings,
                mesh,
                Replica(Runner(stage, cache_bytes, eager=eager)),
                tokenizer,
                weights="random" if random_weights else None,
                max_context=max_context or settings.model.max_context,
                most_scored=scoring_tokens(
                    settings.model,
                    tensor=mesh.tp,
                    compute=precisions.compute,
                    kind=device_kind(mesh.device),
                    spare=cache_bytes,
                ),
                loading_seconds=loading,
            )

        session, failure = attempt(finish, mesh.rank)
    distinct: dict[str, None] = {}
    others = meshes.gather_from_all((failure, model, warnings, session and session.most_scored))
    for other_failure, _, other_warnings, _ in others:
        if other_failure is not None:
            other_failure.shared = True
            raise other_failure
        distinct |= dict.fromkeys(other_warnings)
    for rank, (_, other_model, _, _) in enumerate(others):
        if other_model != others[0][1]:
            differing = CheckpointError(
                f"rank {rank} has a different checkpoint or tokenizer from rank 0",
                code="different_checkpoints",
                hint="Give every host the same files, and the same `latest` or --set iteration=N.",
            )
            differing.shared = True
            raise differing
    assert session is not None
    return replace(
        session,
        most_scored=min(tokens for *_, tokens in others),
        warnings=tuple(distinct) if mesh.rank == 0 else (),
    )


def device_of(kind: str, gpus: tuple[int, ...], local_rank: int) -> torch.device:
    """The device of a local rank."""
    return torch.device("cuda", gpus[local_rank]) if kind == "cuda" else torch.device("cpu")


def _random(
    settings: Settings, mesh: Mesh, precisions: Precisions, warnings: list[str]
) -> tuple[Tokenizer, Stage, object]:
    """As ``_loaded``, without files."""
    warnings.append("the weights are random (--random-weights): the text means nothing")
    tokenizer = load_tokenizer(settings.tokenizer)
    vocab_size = settings.model.padded_vocab_size(tokenizer.vocab_size)
    stage = Stage(settings.model, mesh, vocab_size, mesh.device, precisions)
    stage.randomize(settings.seed)
    if mesh.device.type == "cuda":
        torch.cuda.synchronize(mesh.device)  # what is measured next is not this
    return tokenizer, stage, "random weights"


def _loaded(
    settings: Settings, mesh: Mesh, precisions: Precisions, show_progress: bool, warnings: list[str]
) -> tuple[Tokenizer, Stage, object]:
    """The tokenizer, the stage, and what tells the model's files from those of another."""
    tokenizer = load_tokenizer(settings.tokenizer)
    config = settings.model
    checkpoint = find_configured_checkpoint(settings)
    warnings.extend(checkpoint.warnings)
    adapter = open_configured_adapter(settings)
    vocab_size = read_vocab_rows(checkpoint, config)
    check_vocabulary(settings, tokenizer, vocab_size, checkpoint.source_tp)
    stage = Stage(config, mesh, vocab_size, mesh.device, precisions)
    total = sum(math.prod(shape) for shape in stage.targets().values()) * stage.weights_dtype.itemsize
    with Bar("loading", total, show=show_progress, closing=_how_loaded) as bar:
        approximated = load_weights(
            checkpoint,
            stage.targets(),
            stage.assign,
            config=config,
            tp_rank=mesh.tp_rank,
            tp_size=mesh.tp,
            device=mesh.device,
            dtype=stage.weights_dtype,
            merge=settings.merge,
            adapter=adapter,
            progress=bar.update,
        )
    warnings += describe_approximations(approximated, checkpoint.source_tp, settings.merge, native=adapter is None)
    shard = sum(one.nbytes for one in stage.parameters()) / 1e6
    log.debug(f"shard of {shard:.1f} MB, peak host memory {peak_host_bytes() / 1e6:.1f} MB")
    size = checkpoint.total_bytes + (0 if adapter is None else adapter.files.total_bytes)
    return tokenizer, stage, (checkpoint.kind, checkpoint.tag, size, vocab_size, tokenizer.vocab_size)


def _how_loaded(bar: Bar) -> str:
    gigabytes = bar.count / 1e9
    return f"loaded {gigabytes:.3g} GB of weights a rank in {bar.seconds:.1f} s ({gigabytes / bar.seconds:.2f} GB/s)"


def peak_host_bytes() -> int:
    """Most memory that this process has had; ``ru_maxrss`` would count what its parent had when it was started."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _cache_bytes(mesh: Mesh, stage: Stage) -> int:
    """Bytes that this rank's key-value cache may take: what is free now, less the workspace of a forward pass."""
    if mesh.device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps of earlier work is free, too
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
