"""Attention: over a preallocated key-value cache, or within rows of which nothing is kept.

Shapes: ``B`` batch, ``T`` new tokens, ``S`` cached length, ``N`` this rank's heads, ``D`` head dim, ``W`` longest row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from neoxrun.model.kernels.cpu import attention
from neoxrun.model.kv_cache import KVCache
from neoxrun.model.rotary import Rotary, rotate_


@dataclass(frozen=True)
class Rows:
    """Rows of unequal length that lie one after the other in one sequence of ``T`` tokens, so that only attention pads.

    Attributes:
        padded: int64 ``[B, W]``, for each place of each row the token there; any token where the row has ended.
        line: int64 ``[T]``, for each token whose output is wanted its place in ``padded``, flattened.
        mask: bool, ``[B, 1, W, W]``, True where a token may look. None: at all that stand before it.
        dtype: in which queries and keys meet: the cache's, though these are not kept.
    """

    padded: torch.Tensor
    line: torch.Tensor
    mask: torch.Tensor | None
    dtype: torch.dtype


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


def narrowed(context: AttentionContext) -> AttentionContext:
    """The pass of the last layer, whose attention gives the tokens that are wanted and no others."""
    if context.rows is None or context.wanted is None:
        return context
    return replace(context, rows=replace(context.rows, line=context.rows.line[context.wanted]))


def attend(qkv: torch.Tensor, rotary: Rotary, layer: int, context: AttentionContext) -> torch.Tensor:
    """Turn queries and keys, store the new keys and values, and attend.

    Args:
        qkv: ``[B, T, N, 3, D]``; may be overwritten.
        rotary: tables at the tokens' places; None where there is no rotary embedding.
        layer: place of the layer in this stage's cache.
        context: the pass.

    Returns:
        ``[B, T, N * D]``, of rows the tokens that are wanted. The softmax is scaled by ``1 / sqrt(D)``.
    """
    if context.rows is not None:
        return _attend_rows(qkv[0], rotary, context.rows)
    batch, tokens = qkv.shape[:2]
    if rotary is not None:
        rotate_(qkv[..., :2, :], *rotary)
    q, k, v = qkv.transpose(1, 2).unbind(3)
    keys, values = context.held.layer(layer, context.first_slot, batch)
    if context.prefill:
        keys[:, :, :tokens].copy_(k)
        values[:, :, :tokens].copy_(v)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        _store_one(keys, values, k, v, context.positions)
        dtype = keys.dtype
        out = F.scaled_dot_product_attention(
            q.to(dtype), keys[:, :, : context.length], values[:, :, : context.length], attn_mask=context.mask
        ).to(q.dtype)
    return out.transpose(1, 2).reshape(batch, tokens, -1)


def _attend_rows(qkv: torch.Tensor, rotary: Rotary, rows: Rows) -> torch.Tensor:
    """Attend within each row; ``qkv``: ``[T, N, 3, D]``. Returns ``[1, T, N * D]``."""
    padded = qkv.flatten(1).index_select(0, rows.padded.flatten()).view(*rows.padded.shape, *qkv.shape[1:])
    padded = padded.permute(3, 0, 2, 1, 4)
    qk = padded[:2].to(rows.dtype).contiguous()
    if rotary is not None:
        rotate_(qk, *rotary)
    out = attention(qk[0], qk[1], padded[2], rows.mask)
    return out.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, rows.line).unsqueeze(0)


def _store_one(
    keys: torch.Tensor, values: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
) -> None:
    """Put one new key and value per sequence, ``[B, N, 1, D]``, at ``positions`` ``[B, 1]`` of the cache."""
    place = positions.view(-1, 1, 1, 1).expand(-1, k.shape[1], 1, k.shape[3])
    keys.scatter_(2, place, k.to(keys.dtype))
    values.scatter_(2, place, v.to(values.dtype))
