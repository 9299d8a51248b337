"""Linear layers and the embedding, divided over tensor-parallel ranks.

megatron-core has such layers too; its linears cost 12-14 us more a call than ``F.linear``, a quarter of what a
small layer computes for one token on a CPU, and inference needs none of what they add for training.

Shapes: ``B`` batch, ``T`` new tokens, ``I`` / ``O`` input and output width, ``V`` vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from neoxrun.model.kernels.cpu import linear
from neoxrun.parallel.mesh import Mesh
from neoxrun.parallel.partition import vocab_shard


def _empty(*shape: int) -> nn.Parameter:
    """A parameter without storage: the loader gives it its tensor."""
    return nn.Parameter(torch.empty(*shape, device="meta"), requires_grad=False)


class ColumnParallelLinear(nn.Module):
    """``y = x W^T + b`` with the output dim divided: ``[B, T, I] -> [B, T, O / tp]``."""

    def __init__(self, mesh: Mesh, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = _empty(outputs // mesh.tp, inputs)
        self.bias = _empty(outputs // mesh.tp) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: ``[B, T, I]``."""
        return linear(x, self.weight, self.bias)


class RowParallelLinear(nn.Module):
    """``y = x W^T + b`` with the input dim divided: ``[B, T, I / tp] -> [B, T, O]``.

    ``forward`` returns this rank's part of the sum. With ``bias_in_partial`` every rank's own bias is in its part
    (GPT-NeoX's parallel residual); otherwise the caller adds ``bias`` once, after the reduce.
    """

    def __init__(self, mesh: Mesh, inputs: int, outputs: int, bias: bool, bias_in_partial: bool) -> None:
        super().__init__()
        self.weight = _empty(outputs, inputs // mesh.tp)
        self.bias = _empty(outputs) if bias else None
        self.bias_in_partial = bias_in_partial

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: ``[B, T, I / tp]``."""
        return linear(x, self.weight, self.bias if self.bias_in_partial else None)


class VocabParallelEmbedding(nn.Module):
    """Token ids to vectors, the rows divided over the ranks: ``[B, T] -> [B, T, H]`` (the whole sum on each)."""

    def __init__(self, mesh: Mesh, vocab_size: int, width: int) -> None:
        super().__init__()
        self.mesh = mesh
        self.rows = vocab_shard(vocab_size, mesh.tp, mesh.tp_rank)
        self.weight = _empty(len(self.rows), width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """``ids``: int64 ``[B, T]``."""
        if self.mesh.tp == 1:
            return F.embedding(ids, self.weight)
        elsewhere = (ids < self.rows.start) | (ids >= self.rows.stop)
        x = F.embedding((ids - self.rows.start).masked_fill(elsewhere, 0), self.weight)
        return self.mesh.all_reduce(x.masked_fill_(elsewhere.unsqueeze(-1), 0))
