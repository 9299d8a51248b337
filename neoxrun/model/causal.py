"""Attention within rows of equal length, as training uses it: nothing is cached.

Shapes: ``B`` rows of ``T`` tokens, ``N`` this rank's heads, ``D`` head dim, ``R`` rotated dims.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neoxrun.model.rotary import RotaryTables, rotate_
from neoxrun.model.training_form import Dropout


class CausalAttention:
    """Attention of one pass over rows ``[B, T]``: each token to itself and to all before it in its row.

    Args:
        length: ``T``.
        tables: rotary tables of at least ``T`` positions; None where there is no rotary embedding.
        dropout: of attention's weights.
    """

    def __init__(self, length: int, tables: RotaryTables | None, dropout: Dropout) -> None:
        self._length, self._dropout = length, dropout
        self._rotary = None
        if tables is not None:
            cos, sin = (table[:length, None, None] for table in tables)
            self._rotary = cos, sin

    def attend(self, layer: int, qkv: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """As ``Attention.attend`` says, of ``B * T`` tokens row by row."""
        assert wanted is None, "every token of a row is learned from"
        rows = qkv.view(-1, self._length, *qkv.shape[1:])  # [B, T, N, 3, D]
        if self._rotary is not None:
            rows = rotated(rows, *self._rotary)
        q, k, v = (x.transpose(1, 2) for x in rows.unbind(-2))
        # The kernels differ in memory and speed by far: on a GPU this is flash attention, for every head of the family.
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self._dropout.attention(), is_causal=True)
        return out.transpose(1, 2).reshape(len(qkv), -1)


def rotated(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Queries and keys after ``rotary.rotate_``, and values, in a new tensor.

    Args:
        qkv: ``[B, T, N, 3, D]``.
        cos, sin: ``[T, 1, 1, R]``, the tables at the tokens' positions.
    """
    result: torch.Tensor = _Rotation.apply(qkv, cos, sin)  # type: ignore[no-untyped-call]
    return result


class _Rotation(torch.autograd.Function):
    """One copy in each direction; autograd's own steps of the same copy and fill six times as much."""

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        turned = qkv.clone()
        rotate_(turned[..., :2, :], cos, sin)
        return turned

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        gradient = gradients[0].clone()
        rotate_(gradient[..., :2, :], cos, -sin)  # the transpose of a rotation turns back
        return gradient, None, None
