"""A session in a process that was not started for it: alone, or one of the ranks that torchrun or Slurm has started."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from neoxrun.checkpoint.adapter_layout import use_adapter
from neoxrun.checkpoint.stored import use_stored
from neoxrun.config.precisions import DeviceKind, preferred_precisions
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Merge, Precision, Settings
from neoxrun.engine.session import Session, open_session
from neoxrun.errors import UsageError
from neoxrun.model.dtypes import device_kind
from neoxrun.parallel import mesh as meshes
from neoxrun.planning.devices import cpu_device
from neoxrun.serving.words import in_python
from neoxrun.terminal.log import log


@dataclass(frozen=True)
class ModelArguments:
    """Which model, and how it is held; see ``LLM``.

    Attributes:
        sources: folders, files and names of configurations.
        overrides, checkpoint, tokenizer, adapter, tp, pp, dtype, random_weights, merge, eager, stall_timeout: as for
            ``LLM``.
        device: ``cpu`` or ``cuda``; None: a GPU if there is one.
        gpus: of this host, counted among the visible ones in PCI bus order; None: any.
        show_progress: say on stderr how loading goes.
    """

    sources: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    checkpoint: str | None = None
    tokenizer: str | None = None
    adapter: str | None = None
    tp: int = 1
    pp: int = 1
    device: DeviceKind | None = None
    gpus: tuple[int, ...] | None = None
    dtype: Precision | None = None
    random_weights: bool = False
    merge: Merge = "fold"
    eager: bool = False
    stall_timeout: float | None = None
    show_progress: bool = False

    @property
    def ranks(self) -> int:
        """How many processes hold the model."""
        return self.tp * self.pp

    @cached_property
    def settings(self) -> Settings:
        """The configuration, which is read once.

        Raises:
            ConfigError: it is missing, wrong or not supported.
            CheckpointError: the adapter is missing, damaged, not supported, or another model's.
        """
        read = load_settings(self.sources, self.overrides, checkpoint=self.checkpoint, tokenizer=self.tokenizer)
        settings = replace(use_stored(read), merge=self.merge)
        return use_adapter(settings, self.adapter, random_weights=self.random_weights)


def open_local(arguments: ModelArguments, *, started: bool) -> Session:
    """Load the model in this process.

    Args:
        arguments: which model.
        started: torchrun or Slurm has started as many processes, each of which calls this with the same arguments.

    Raises:
        NeoxrunError: see ``open_session``.
        UsageError: there is no such GPU.
    """
    device = _choose_device(arguments, int(os.environ.get("LOCAL_RANK", "0")) if started else 0)
    settings = arguments.settings
    if started:
        mesh = meshes.connect_ranks(arguments.tp, arguments.pp, 1, device)
    else:
        mesh = meshes.single_rank_mesh(device)
        use_device(device)
    # Rank 0's processor decides for all of them.
    native_bf16 = meshes.share_from_first(cpu_device().native_bf16)
    precisions = preferred_precisions(
        arguments.dtype, settings.precision, device_kind(device), native_bf16=native_bf16
    )[0]
    if arguments.dtype is None and precisions.compute == "bf16" != settings.precision and mesh.rank == 0:
        log.info(f"precision: {settings.precision} -> bf16, which this CPU computes natively; dtype='fp32' is exact")
    session = open_session(
        settings,
        mesh,
        precisions,
        random_weights=arguments.random_weights,
        show_progress=arguments.show_progress and mesh.rank == 0,
        eager=arguments.eager,
    )
    for warning in session.warnings:
        log.warning(in_python(warning))
    return session


def use_device(device: torch.device) -> None:
    """Make a GPU this thread's current one, on which Triton launches."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _choose_device(arguments: ModelArguments, local_rank: int) -> torch.device:
    """A GPU where there is one and none other is asked for; of several processes, each its own."""
    # As nvidia-smi and our own ranks number GPUs; of no effect where the program uses CUDA already.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if arguments.device == "cuda" and not count:
        raise UsageError("device is cuda, and no GPU is visible", code="no_gpu", hint="Leave device out, or use cpu.")
    if arguments.device == "cpu" or not count:
        return torch.device("cpu")
    gpus = range(count) if arguments.gpus is None else arguments.gpus
    index = gpus[local_rank] if local_rank < len(gpus) else -1
    if not 0 <= index < count:
        raise UsageError(
            f"GPU {max(gpus[-1], local_rank)} was asked for, and {count} are visible, counted from 0",
            code="no_gpu",
            hint="See nvidia-smi and CUDA_VISIBLE_DEVICES.",
        )
    return torch.device("cuda", index)
