"""A checkpoint's tensors as one of any number of ranks is to have them in its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.checkpoint.load import load_weights
from neoxrun.checkpoint.source import LayerSource
from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.config.tensors import Parameter, TensorKey, local_shape
from neoxrun.errors import CheckpointError
from neoxrun.model.dtypes import DTYPES

_CPU: Final = torch.device("cpu")
_PIECE: Final = 1 << 22
_BITS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def read_shares(
    checkpoint: Checkpoint,
    config: ModelConfig,
    table: Mapping[TensorKey, Parameter],
    assign: Callable[[TensorKey, Tensor, float], None],
    *,
    layers: set[int],
    rank: int,
    ranks: int,
    dtype: Precision | None,
) -> None:
    """Give a rank's tensors of some layers to ``assign``, layer by layer, with what rounding changed at most.

    Args:
        checkpoint: the source.
        config: its network.
        table: every tensor of the model.
        assign: takes a tensor's key, a new tensor, and the largest difference between it and the number that the
            source has; 0 where no number changed.
        layers: the numbers of the layers.
        rank: the rank.
        ranks: how many there are. At the source's own number each keeps its own undivided tensors.
        dtype: number format of the tensors; None: that of the source's.

    Raises:
        CheckpointError: as ``load_weights``; a number is too large for ``dtype``.
    """

    def convert(key: TensorKey, tensor: Tensor) -> None:
        if dtype is None:
            assign(key, tensor, 0.0)
            return
        rounded = tensor.to(DTYPES[dtype])
        change = largest_difference(rounded, tensor)
        if change == float("inf"):
            raise CheckpointError(
                f"layer {key.layer}, {key.name} holds numbers that are too large for {dtype}",
                code="nonfinite_weights",
                where=str(checkpoint.folder),
                hint="Try --dtype bf16 or --dtype fp32.",
            )
        assign(key, rounded, change)

    load_weights(
        checkpoint,
        {key: local_shape(key.name, parameter, ranks) for key, parameter in table.items() if key.layer in layers},
        convert,
        config=config,
        tp_rank=rank,
        tp_size=ranks,
        device=_CPU,
        dtype=None if dtype is None else torch.float32,  # sums are rounded once, to the format asked for
    )


def stored_dtypes(source: LayerSource, table: Mapping[TensorKey, Parameter]) -> dict[TensorKey, torch.dtype]:
    """The type of each tensor in the files. Reads headers only.

    Raises:
        CheckpointError: a tensor is missing.
    """
    found = {}
    for layer in dict.fromkeys(key.layer for key in table):
        shard = source.read_layer(layer)[0]
        for key in table:
            if key.layer == layer:
                if key.name not in shard:
                    raise CheckpointError(
                        f"layer {layer} has no {key.name}",
                        code="wrong_tensors",
                        where=str(source.checkpoint.folder),
                        hint="Use the configuration that belongs to this checkpoint.",
                    )
                found[key] = shard[key.name].tensor.dtype
    return found


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same type, the same shape and the same bits."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    kind = _BITS[first.dtype.itemsize]
    return torch.equal(first.contiguous().view(kind), second.contiguous().view(kind))


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Equal parts of tensors of one shape, flat, in fp32 and small, so that a large tensor is never copied whole."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    for first in range(0, len(flat[0]), _PIECE):
        yield tuple(one[first : first + _PIECE].float() for one in flat)


def largest_difference(first: Tensor, second: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape; infinity where one holds no finite number."""
    largest = 0.0
    for one, other in pieces(first, second):
        difference = float((one - other).abs().max())
        largest = max(largest, difference) if difference == difference else float("inf")
    return largest
