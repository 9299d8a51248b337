"""Attention over a preallocated key-value cache, and the choice of kernel.

Shapes: ``B`` batch, ``T`` new tokens, ``S`` cached length, ``N`` this rank's heads, ``D`` head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from neoxrun.engine.kv_cache import KVCache


@dataclass(frozen=True)
class AttentionContext:
    """What one forward pass shares between its layers.

    Attributes:
        cache: this rank's key-value cache; None where a prefill keeps nothing.
        first_slot: the batch's sequences lie in cache slots ``first_slot .. first_slot + B - 1``.
        positions: int64 ``[B, T]``, place of each new token in its sequence.
        length: cached length that a decode step attends to: the longest sequence, the new token included.
        mask: bool, ``[B, 1, T, length]``, True where a token may look. None: a decode step looks everywhere, and a
            prefill at the tokens before.
        prefill: the tokens begin their sequences, so that they attend to each other only.
    """

    cache: KVCache | None
    first_slot: int
    positions: torch.Tensor
    length: int
    mask: torch.Tensor | None
    prefill: bool


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, context: AttentionContext) -> torch.Tensor:
    """Store the new keys and values, and attend.

    Args:
        q, k, v: ``[B, T, N, D]``; queries and keys already rotated.
        layer: place of the layer in this stage's cache.
        context: the pass.

    Returns:
        ``[B, T, N * D]``. The softmax is scaled by ``1 / sqrt(D)``.
    """
    batch, tokens = q.shape[:2]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if context.prefill:
        if context.cache is not None:
            keys, values = context.cache.layer(layer, context.first_slot, batch)
            keys[:, :, :tokens].copy_(k)
            values[:, :, :tokens].copy_(v)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=context.mask, is_causal=context.mask is None)
    else:
        assert context.cache is not None, "a decode step continues what the cache holds"
        keys, values = context.cache.layer(layer, context.first_slot, batch)
        _store_one(keys, values, k, v, context.positions)
        dtype = keys.dtype
        out = F.scaled_dot_product_attention(
            q.to(dtype), keys[:, :, : context.length], values[:, :, : context.length], attn_mask=context.mask
        ).to(q.dtype)
    return out.transpose(1, 2).reshape(batch, tokens, -1)


def _store_one(
    keys: torch.Tensor, values: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
) -> None:
    """Put one new key and value per sequence, ``[B, N, 1, D]``, at ``positions`` ``[B, 1]`` of the cache."""
    place = positions.view(-1, 1, 1, 1).expand(-1, k.shape[1], 1, k.shape[3])
    keys.scatter_(2, place, k.to(keys.dtype))
    values.scatter_(2, place, v.to(values.dtype))
