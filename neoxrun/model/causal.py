"""Attention within rows of equal length, as training uses it: nothing is cached, and nothing is changed in place.

Shapes: ``B`` rows of ``T`` tokens, ``N`` this rank's heads, ``D`` head dim, ``R`` rotated dims.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neoxrun.model.rotary import RotaryTables
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
        qk, v = rows[..., :2, :], rows[..., 2, :]
        if self._rotary is not None:
            qk = rotated(qk, *self._rotary)
        q, k, v = (x.transpose(1, 2) for x in (qk[..., 0, :], qk[..., 1, :], v))
        # The kernels differ in memory and speed by far: on a GPU this is flash attention, for every head of the family.
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self._dropout.attention(), is_causal=True)
        return out.transpose(1, 2).reshape(len(qkv), -1)


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """As ``rotary.rotate_``, in a new tensor.

    Args:
        x: ``[..., D]``.
        cos, sin: ``[..., R]``, the tables at the tokens' positions.
    """
    width = cos.shape[-1]
    turning, rest = x[..., :width], x[..., width:]
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat((second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1)
