"""Attention within rows of tokens that are trees, as scoring uses it: nothing is cached.

Rows of unequal length lie one after the other in the batch, so that only attention pads.

Shapes: ``T`` tokens, ``B`` rows, ``W`` the longest row's width, ``N`` this rank's heads, ``D`` head dim.
"""

from __future__ import annotations

import torch

from neoxrun.model.kernels.cpu import attention
from neoxrun.model.rotary import RotaryTables, rotate_


class TreeAttention:
    """Attention of one pass.

    Args:
        padded: int64 ``[B, W]``, for each position of each row the token there; any token where the row has ended.
        line: int64 ``[T]``, for each token its index in ``padded``, flattened.
        mask: bool ``[B, 1, W, W]``, True where a token may look. None: at all that stand before it.
        tables: rotary tables; None where there is no rotary embedding.
        positions: int64 ``[T]``, of each token in its sequence.
        dtype: in which queries and keys meet.
    """

    def __init__(
        self,
        padded: torch.Tensor,
        line: torch.Tensor,
        mask: torch.Tensor | None,
        tables: RotaryTables | None,
        positions: torch.Tensor,
        dtype: torch.dtype,
    ) -> None:
        self._padded, self._line, self._mask = padded, line, mask
        self._dtype = dtype
        self._rotary = None
        if tables is not None:
            cos, sin = (table[positions[padded]][:, None].to(self._dtype) for table in tables)
            self._rotary = cos, sin

    def attend(self, layer: int, qkv: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """As ``Attention.attend`` says."""
        padded = qkv.flatten(1).index_select(0, self._padded.flatten()).view(*self._padded.shape, *qkv.shape[1:])
        padded = padded.permute(3, 0, 2, 1, 4)
        qk = padded[:2].to(self._dtype).contiguous()
        if self._rotary is not None:
            rotate_(qk, *self._rotary)
        out = attention(qk[0], qk[1], padded[2], self._mask)
        line = self._line if wanted is None else self._line[wanted]
        return out.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, line)
