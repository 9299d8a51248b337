"""Low-rank adapters as PEFT stores them: reading one, merging it into the weights that are loaded, writing one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from neoxrun.checkpoint.adapter_config import ADAPTER_CONFIG, describe_adapter
from neoxrun.checkpoint.adapter_layout import (
    ADAPTER_WEIGHTS,
    AdapterFiles,
    find_adapter,
    hugging_face_name,
    pair_tensors,
)
from neoxrun.checkpoint.files import read_pickle, read_safetensors, safetensors_metadata
from neoxrun.config.settings import Merge, ModelConfig, Settings
from neoxrun.config.tensors import TensorKey
from neoxrun.config.training import LoraConfig
from neoxrun.errors import CheckpointError

_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MERGE: Final = "neoxrun_merge"  # among the metadata of the file, which PEFT passes over
_NUMBERS_AT_ONCE: Final = 2**20  # of a weight in fp32: 4 MB, which a CPU's caches hold


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one weight: ``scale B A``.

    Attributes:
        a: ``[rank, inputs]``, of the whole layer.
        b: ``[outputs, rank]``.
        scale: ``alpha / rank``, or as the adapter has it.
    """

    a: Tensor
    b: Tensor
    scale: float

    def add_to(self, weight: Tensor, row: int, column: int) -> Tensor:
        """A part of the whole weight with its part of ``scale B A``, in fp32, or fp64 where ``weight`` is.

        Args:
            weight: ``[rows, columns]``, which stays as it is.
            row, column: where in the whole weight it begins.
        """
        wide = torch.promote_types(weight.dtype, torch.float32)
        rows, columns = weight.shape
        b = self.b[row : row + rows].to(weight.device, wide)
        a = self.a[:, column : column + columns].to(weight.device, wide)
        return weight.to(wide, copy=True).addmm_(b, a, alpha=self.scale)  # in place: half the time of a new tensor

    def merge(self, target: Tensor, weight: Tensor, row: int, column: int) -> None:
        """Write a part of the merged weight into ``target``, of the same shape, rounded once; some rows at a time."""
        step = max(1, _NUMBERS_AT_ONCE // max(1, weight.shape[1]))
        for first in range(0, len(weight), step):
            part = weight[first : first + step].to(target.device)
            target[first : first + step] = self.add_to(part, row + first, column)


@dataclass(frozen=True)
class Adapter:
    """An adapter that fits a network.

    Attributes:
        files: where it is from.
        low_rank: what it adds to each weight that it changes.
        merge: what had become of the norms of the model that it was trained on, where they differed between ranks; None
            where the file does not say.
    """

    files: AdapterFiles
    low_rank: Mapping[TensorKey, LowRank]
    merge: Merge | None = None


def open_configured_adapter(settings: Settings) -> Adapter | None:
    """The adapter that is to be merged into the model; None where there is none.

    Raises:
        CheckpointError: as ``open_adapter``.
    """
    return None if settings.adapter is None else open_adapter(settings.adapter, settings.model)


def open_adapter(folder: Path, config: ModelConfig) -> Adapter:
    """Read an adapter, of which nothing is executed.

    Args:
        folder: with PEFT's ``adapter_config.json`` and its weights.
        config: the network that it is to change.

    Raises:
        CheckpointError: a file is missing or damaged, the adapter is not supported, or it is another network's.
    """
    files = find_adapter(folder)
    safe = files.weights.suffix == ".safetensors"
    tensors = read_safetensors(files.weights) if safe else read_pickle(files.weights)
    noted = safetensors_metadata(files.weights).get(_MERGE) if safe else None
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided or tensor.dtype not in _FLOATS:
            raise CheckpointError(
                f"{name} is not a dense tensor of fp16, bf16 or fp32",
                code="unsupported_adapter",
                where=str(files.weights),
            )
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{name} holds NaN or infinity",
                code="nonfinite_weights",
                where=str(files.weights),
                hint="Use the adapter of an earlier step.",
            )
    pairs = pair_tensors(files, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, config)
    low_rank = {key: LowRank(tensors[pair.a], tensors[pair.b], pair.scale) for key, pair in pairs.items()}
    return Adapter(files, low_rank, next((merge for merge in get_args(Merge) if merge == noted), None))


def write_adapter(
    folder: Path,
    lora: LoraConfig,
    matrices: Mapping[TensorKey, tuple[Tensor, Tensor]],
    base_model: str | None,
    *,
    merge: Merge = "fold",
) -> None:
    """Write an adapter as PEFT writes it, into an existing folder.

    Args:
        folder: where to write.
        lora: the adapter's settings.
        matrices: whole A and B of each weight that it changes.
        base_model: the model's folder or name, for the reader.
        merge: what became of norms that differ between the checkpoint's ranks.
    """
    tensors = {
        hugging_face_name(key, part): matrix.detach().contiguous().cpu()
        for key, pair in matrices.items()
        for part, matrix in zip("AB", pair, strict=True)
    }
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt", _MERGE: merge})
    content = json.dumps(describe_adapter(lora, base_model), indent=2, sort_keys=True)
    (folder / ADAPTER_CONFIG).write_text(content + "\n", encoding="utf-8")
