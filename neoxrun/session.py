"""A model that is loaded and ready on this rank."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import torch

from neoxrun.checkpoint import layout
from neoxrun.checkpoint import load as loading
from neoxrun.devices import cpu_device
from neoxrun.engine.runner import Runner
from neoxrun.errors import CheckpointError, ConfigError, NeoxrunError, RankError
from neoxrun.log import log
from neoxrun.model.gpt_neox import Stage
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.mesh import Mesh
from neoxrun.progress import LoadBar
from neoxrun.settings import Precision, Settings
from neoxrun.tokenizer import Tokenizer
from neoxrun.tokenizer import load as load_tokenizer

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Of the memory free after loading, the share that the cache may take; the rest is for activations.
_CACHE_SHARE = 0.8


@dataclass(frozen=True)
class Session:
    """What commands work with.

    Attributes:
        settings: the configuration.
        mesh: this rank's place.
        runner: this rank's part of the model.
        tokenizer: the model's.
        weights: ``random`` where no checkpoint was loaded, else None.
    """

    settings: Settings
    mesh: Mesh
    runner: Runner
    tokenizer: Tokenizer
    weights: str | None


def open_session(
    settings: Settings, mesh: Mesh, dtype: Precision, *, random_weights: bool, show_progress: bool
) -> Session:
    """Build and load this rank's part of the model.

    Every rank calls it; when it fails on one, it fails on all with that one's error.

    Raises:
        CheckpointError: the weights are missing, damaged or not those of the configuration.
        DataError: the tokenizer cannot be read.
        RankError: a device has too little memory.
    """
    session: Session | None = None
    failure: NeoxrunError | None = None
    try:
        session = _open(settings, mesh, dtype, random_weights, show_progress)
    except NeoxrunError as error:
        failure = error
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, OSError) as error:
        failure = out_of_memory(error, mesh.rank)
        if failure is None:
            raise
    for found in meshes.gather_from_all(failure):
        if found is not None:
            raise found
    assert session is not None
    return session


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
    return RankError(
        f"out of memory on rank {rank}: {text.splitlines()[0] if text else 'allocation failed'}",
        hint="Lower --batch-size, spread the model over more devices (--tp, --pp), or see `neoxrun plan`.",
    )


def device_of(kind: str, gpus: tuple[int, ...], local_rank: int) -> torch.device:
    """The device of a local rank."""
    return torch.device("cuda", gpus[local_rank]) if kind == "cuda" else torch.device("cpu")


def _open(
    settings: Settings, mesh: Mesh, dtype: Precision, random_weights: bool, show_progress: bool
) -> Session:
    config = settings.model
    tokenizer = load_tokenizer(settings.tokenizer)
    if random_weights:
        vocab_size = config.padded_vocab_size(tokenizer.vocab_size)
        stage = Stage(config, mesh, vocab_size, mesh.device, DTYPES[dtype])
        stage.randomize(settings.seed)
        log.warning("the weights are random (--random-weights): the text means nothing")
    else:
        stage = _loaded(settings, mesh, dtype, tokenizer, show_progress)
    runner = Runner(stage, _cache_bytes(mesh))
    return Session(settings, mesh, runner, tokenizer, "random" if random_weights else None)


def _loaded(
    settings: Settings, mesh: Mesh, dtype: Precision, tokenizer: Tokenizer, show_progress: bool
) -> Stage:
    config = settings.model
    if settings.checkpoint is None:
        raise ConfigError(
            "the configuration names no checkpoint",
            hint="Set `load` in the configuration, or give --checkpoint DIR.",
        )
    checkpoint = layout.find(settings.checkpoint, config, settings.iteration)
    vocab_size = loading.vocab_rows(checkpoint, config)
    if vocab_size < tokenizer.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} entries, but the checkpoint's vocabulary has {vocab_size}",
            where=str(settings.tokenizer.vocab_file),
            hint="Give the tokenizer that the model was trained with (--tokenizer FILE).",
        )
    stage = Stage(config, mesh, vocab_size, mesh.device, DTYPES[dtype])
    bar = LoadBar(0, show_progress)
    loading.load(
        checkpoint,
        stage.targets(),
        stage.assign,
        config=config,
        tp_rank=mesh.tp_rank,
        tp_size=mesh.tp,
        device=mesh.device,
        dtype=DTYPES[dtype],
        progress=bar.update,
    )
    bar.close()
    return stage


def _cache_bytes(mesh: Mesh) -> int:
    """Bytes that this rank's key-value cache may take."""
    if mesh.device.type == "cuda":
        free = torch.cuda.mem_get_info(mesh.device)[0]
    else:
        # All ranks of the host take from the same memory.
        free = cpu_device().free_bytes // (mesh.tp * mesh.pp * mesh.replicas)
    return int(free * _CACHE_SHARE)
