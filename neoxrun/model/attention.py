"""Attention over a preallocated key-value cache, and the choice of kernel.

Shapes: ``B`` batch, ``T`` new tokens, ``S`` cached length, ``N`` this rank's heads, ``D`` head dim, ``W`` longest row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from neoxrun.engine.kv_cache import KVCache


@dataclass(frozen=True)
class Rows:
    """Rows of unequal length that lie one after the other in one sequence of ``T`` tokens, so that only attention pads.

    Attributes:
        padded: int64 ``[B, W]``, for each place of each row the token there; any token where the row has ended.
        line: int64 ``[T]``, for each token its place in ``padded``, flattened.
        mask: bool, ``[B, 1, W, W]``, True where a token may look. None: at all that stand before it.
    """

    padded: torch.Tensor
    line: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True)
class AttentionContext:
    """What one forward pass shares between its layers.

    Attributes:
        cache: this rank's key-value cache; None where nothing is kept.
        first_slot: the batch's sequences lie in cache slots ``first_slot .. first_slot + B - 1``.
        positions: int64 ``[B, T]``, place of each new token in its sequence.
        length: cached length that a decode step attends to: the longest sequence, the new token included.
        mask: bool, ``[B, 1, 1, length]``, True where a decode step may look; None: everywhere.
        prefill: the tokens begin their sequences, so that they attend to each other only.
        rows: where the one sequence of tokens is many rows, in a pass that keeps nothing.
        wanted: int64, tokens of the sequence whose outputs are wanted; the last layer computes no others. None: all.
    """

    cache: KVCache | None
    first_slot: int
    positions: torch.Tensor
    length: int
    mask: torch.Tensor | None
    prefill: bool
    rows: Rows | None = None
    wanted: torch.Tensor | None = None

    @property
    def held(self) -> KVCache:
        """The cache of a pass that has one."""
        assert self.cache is not None, "only a pass over rows keeps nothing"
        return self.cache


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, context: AttentionContext) -> torch.Tensor:
    """Store the new keys and values, and attend.

    Args:
        q, k, v: ``[B, T, N, D]``; queries and keys already rotated.
        layer: place of the layer in this stage's cache.
        context: the pass.

    Returns:
        ``[B, T, N * D]``. The softmax is scaled by ``1 / sqrt(D)``.
    """
    if context.rows is not None:
        return _attend_rows(q[0], k[0], v[0], context.rows)
    batch, tokens = q.shape[:2]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if context.prefill:
        keys, values = context.held.layer(layer, context.first_slot, batch)
        keys[:, :, :tokens].copy_(k)
        values[:, :, :tokens].copy_(v)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        keys, values = context.held.layer(layer, context.first_slot, batch)
        _store_one(keys, values, k, v, context.positions)
        dtype = keys.dtype
        out = F.scaled_dot_product_attention(
            q.to(dtype), keys[:, :, : context.length], values[:, :, : context.length], attn_mask=context.mask
        ).to(q.dtype)
    return out.transpose(1, 2).reshape(batch, tokens, -1)


def _attend_rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Attend within each row; ``q``, ``k``, ``v``: ``[T, N, D]``. Returns ``[1, T, N * D]``."""
    q, k, v = (x[rows.padded].transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=rows.mask, is_causal=rows.mask is None)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)[rows.line].unsqueeze(0)


def _store_one(
    keys: torch.Tensor, values: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
) -> None:
    """Put one new key and value per sequence, ``[B, N, 1, D]``, at ``positions`` ``[B, 1]`` of the cache."""
    place = positions.view(-1, 1, 1, 1).expand(-1, k.shape[1], 1, k.shape[3])
    keys.scatter_(2, place, k.to(keys.dtype))
    values.scatter_(2, place, v.to(values.dtype))
