"""Linear layers and the embedding, divided over tensor-parallel ranks.

megatron-core's linear layers cost 12-14 us more per call than ``F.linear``, a quarter of the time that a small layer
takes for one token on a CPU, and inference needs nothing of what they add for training.

Shapes: ``B`` batch, ``T`` new tokens, ``I`` / ``O`` input and output width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from neoxrun.model.kernels.cpu import Gelu, linear, pack_weight
from neoxrun.parallel.mesh import Mesh
from neoxrun.parallel.partition import vocab_shard


def frozen(tensor: torch.Tensor) -> nn.Parameter:
    """A parameter of the network, without a gradient: it is used for inference only."""
    return nn.Parameter(tensor, requires_grad=False)


def unfilled(*shape: int) -> nn.Parameter:
    """A parameter without storage; the loader replaces it."""
    return frozen(torch.empty(*shape, device="meta"))


class _Linear(nn.Module):
    """A weight and, where the configuration has one, a bias."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = unfilled(outputs, inputs)
        self.bias = unfilled(outputs) if bias else None
        self._packed = False

    def pack(self) -> None:
        """Convert the weight, once it is loaded, to the layout that is the fastest for several tokens."""
        if not self._packed:
            self.weight = frozen(pack_weight(self.weight.data))
            self._packed = True


class ColumnParallelLinear(_Linear):
    """``y = activation(x W^T + b)`` with the output dim divided: ``[T, I] -> [T, O / tp]``."""

    def __init__(self, mesh: Mesh, inputs: int, outputs: int, *, bias: bool, activation: Gelu | None = None) -> None:
        super().__init__(inputs, outputs // mesh.tp, bias)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: ``[T, I]``."""
        return linear(x, self.weight, self.bias, self.activation)


class RowParallelLinear(_Linear):
    """``y = x W^T + b`` with the input dim divided: ``[T, I / tp] -> [T, O]``, this rank's part of the sum.

    The caller sums the parts of all tensor-parallel ranks. They include the bias: with ``bias_on_every_rank`` each rank
    adds its bias (GPT-NeoX's parallel residual), otherwise the first rank adds the model's.
    """

    def __init__(self, mesh: Mesh, inputs: int, outputs: int, *, bias: bool, bias_on_every_rank: bool) -> None:
        super().__init__(inputs // mesh.tp, outputs, bias)
        self.adds_bias = bias_on_every_rank or mesh.tp_rank == 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: ``[T, I / tp]``."""
        return linear(x, self.weight, self.bias if self.adds_bias else None)


class VocabParallelEmbedding(nn.Module):
    """Token ids to vectors, with the rows divided over the ranks: ``[T] -> [T, H]``, complete on each rank."""

    def __init__(self, mesh: Mesh, vocab_size: int, width: int, reduce: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.mesh, self._reduce = mesh, reduce
        self.rows = vocab_shard(vocab_size, mesh.tp, mesh.tp_rank)
        self.weight = unfilled(len(self.rows), width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """``ids``: int64 ``[T]``."""
        if self.mesh.tp == 1:
            return F.embedding(ids, self.weight)
        elsewhere = (ids < self.rows.start) | (ids >= self.rows.stop)
        x = F.embedding((ids - self.rows.start).masked_fill(elsewhere, 0), self.weight)
        return self._reduce(x.masked_fill_(elsewhere.unsqueeze(-1), 0))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """The tied head: logits of this rank's rows, ``[..., H] -> [..., V / tp]``."""
        return linear(x, self.weight, None)
