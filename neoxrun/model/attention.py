"""Attention: over a preallocated key-value cache, or within rows without a cache.

Shapes: ``B`` batch, ``T`` new tokens, ``S`` cached length, ``N`` this rank's heads, ``D`` head dim, ``W`` length of the
longest row.
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
    """Rows of unequal length, one after the other in one sequence of ``T`` tokens: only attention pads them.

    Attributes:
        padded: int64 ``[B, W]``, index of the token at each position of each row; any token beyond the row's end.
        unpadded: int64 ``[T]``, for each token whose output is needed, its index in the flattened ``padded``.
        mask: bool ``[B, 1, W, W]``, True where a token attends. None: to itself and all tokens before it.
        dtype: type in which queries and keys meet: that of the cache, although nothing is cached.
    """

    padded: torch.Tensor
    unpadded: torch.Tensor
    mask: torch.Tensor | None
    dtype: torch.dtype


@dataclass(frozen=True)
class AttentionContext:
    """What one forward pass shares between its layers.

    Attributes:
        cache: this rank's key-value cache; None in a pass over rows.
        first_slot: the batch's sequences are in cache slots ``first_slot .. first_slot + B - 1``.
        positions: int64 ``[B, T]``, position of each new token in its sequence.
        length: cached length that a decode step attends to: that of the longest sequence, with its new token.
        mask: bool ``[B, 1, 1, length]``, True where a decode step attends; None: everywhere.
        prefill: the tokens are the start of their sequences and attend only to each other.
        rows: the rows that the one sequence of tokens consists of; None in a pass with a cache.
        wanted: int64, indices of the tokens whose outputs are needed; the last layer computes no others. None: all.
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
    def required_cache(self) -> KVCache:
        """The cache, in a pass that has one."""
        assert self.cache is not None, "only a pass over rows has no cache"
        return self.cache


def narrow_to_wanted(context: AttentionContext) -> AttentionContext:
    """The context of the last layer, whose attention returns only the tokens that are wanted."""
    if context.rows is None or context.wanted is None:
        return context
    return replace(context, rows=replace(context.rows, unpadded=context.rows.unpadded[context.wanted]))


def attend(qkv: torch.Tensor, rotary: Rotary, layer: int, context: AttentionContext) -> torch.Tensor:
    """Rotate queries and keys, store the new keys and values, and attend.

    Args:
        qkv: ``[B, T, N, 3, D]``; may be overwritten.
        rotary: tables at the tokens' positions; None where the network has no rotary embedding.
        layer: index of the layer in this stage's cache.
        context: the pass.

    Returns:
        ``softmax(q k^T / sqrt(D)) v``, ``[B, T, N * D]``; of a pass over rows, the tokens that are wanted.
    """
    if context.rows is not None:
        return _attend_rows(qkv[0], rotary, context.rows)
    batch, tokens = qkv.shape[:2]
    if rotary is not None:
        rotate_(qkv[..., :2, :], *rotary)
    q, k, v = qkv.transpose(1, 2).unbind(3)
    keys, values = context.required_cache.layer(layer, context.first_slot, batch)
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
    """Attend within each row: ``qkv`` ``[T, N, 3, D] -> [1, T, N * D]``, or as many tokens as are wanted."""
    padded = qkv.flatten(1).index_select(0, rows.padded.flatten()).view(*rows.padded.shape, *qkv.shape[1:])
    padded = padded.permute(3, 0, 2, 1, 4)
    qk = padded[:2].to(rows.dtype).contiguous()
    if rotary is not None:
        rotate_(qk, *rotary)
    out = attention(qk[0], qk[1], padded[2], rows.mask)
    return out.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, rows.unpadded).unsqueeze(0)


def _store_one(
    keys: torch.Tensor, values: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
) -> None:
    """Store one new key and value per sequence, ``[B, N, 1, D]``, at ``positions`` ``[B, 1]`` of the cache."""
    index = positions.view(-1, 1, 1, 1).expand(-1, k.shape[1], 1, k.shape[3])
    keys.scatter_(2, index, k.to(keys.dtype))
    values.scatter_(2, index, v.to(values.dtype))
