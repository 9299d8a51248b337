"""Attention over a paged key-value cache on a GPU, by the kernels of ``kernels.paged``.

Shapes: ``T`` tokens, ``B`` of them single ones, ``N`` this rank's heads, ``D`` head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neoxrun.model.kernels import triton_kernels
from neoxrun.model.kv_cache import KVCache
from neoxrun.model.rotary import RotaryTables

CHUNK_ROWS = 128
"""Tokens of one program of the kernel for spans of several tokens."""


@dataclass(frozen=True)
class Singles:
    """The first ``B`` tokens of a batch, each alone of its sequence.

    Attributes:
        pages: int32 ``[B, most pages]``, of their sequences.
        lengths: int32 ``[B]``, positions up to the token itself.
        most: no length is greater.
    """

    pages: torch.Tensor
    lengths: torch.Tensor
    most: int


@dataclass(frozen=True)
class Chunks:
    """Spans of several tokens, as ``fused.attend_many`` takes them."""

    pages: torch.Tensor
    tiles: torch.Tensor
    starts: torch.Tensor
    counts: torch.Tensor
    befores: torch.Tensor


class PagedCudaAttention:
    """Attention of one pass.

    Args:
        cache: this rank's.
        tables: rotary tables; None where there is no rotary embedding.
        positions: int64 ``[T]``, of each token in its sequence.
        slots: int64 ``[T]``, where each token's key and value go: page times the page's size plus the offset in it.
        singles, chunks: what the batch consists of, single tokens first.
    """

    def __init__(
        self,
        cache: KVCache,
        tables: RotaryTables | None,
        positions: torch.Tensor,
        slots: torch.Tensor,
        singles: Singles | None,
        chunks: Chunks | None,
    ) -> None:
        self._cache, self._tables, self._positions, self._slots = cache, tables, positions, slots
        self._singles, self._chunks = singles, chunks

    def attend(self, layer: int, qkv: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """As ``Attention.attend`` says."""
        fused = triton_kernels(qkv.device)
        assert fused is not None, "this backend is for devices that have them"
        keys, values = self._cache.layer(layer)
        q = fused.rotate_store(qkv, self._tables, self._positions, self._slots, keys, values)
        out = torch.empty((len(q), q.shape[1] * q.shape[2]), dtype=q.dtype, device=q.device)
        if (singles := self._singles) is not None:
            count = len(singles.lengths)
            fused.attend_one(q[:count], keys, values, singles.pages, singles.lengths, singles.most, out[:count])
        if (chunks := self._chunks) is not None:
            fused.attend_many(
                q,
                keys,
                values,
                chunks.pages,
                chunks.tiles,
                chunks.starts,
                chunks.counts,
                chunks.befores,
                out,
                CHUNK_ROWS,
            )
        return out if wanted is None else out[wanted]
