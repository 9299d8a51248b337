"""Attention over a paged key-value cache by torch's own kernels: on the CPU, and on GPUs without Triton.

On the CPU a page is best as long as a sequence: then a sequence's keys are one view of the cache and nothing is
gathered. With shorter pages they are copied together at each pass.

Shapes: ``T`` tokens, ``S`` cached positions, ``N`` this rank's heads, ``D`` head dim, ``P`` positions of a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from neoxrun.model.kv_cache import KVCache
from neoxrun.model.rotary import RotaryTables, rotate_

# A call of the attention kernel takes as long as reading so many positions: sequences of unequal length share one as
# long as what is read in vain is less.
_CALL_POSITIONS = 70


@dataclass(frozen=True)
class CachedSpan:
    """Consecutive tokens of one sequence in a batch.

    Attributes:
        first: the first of them in the batch.
        count: how many there are.
        start: positions of the sequence before them, all of which are cached.
        pages: of the sequence.
    """

    first: int
    count: int
    start: int
    pages: Sequence[int]

    @property
    def length(self) -> int:
        """Positions of the sequence up to the last token."""
        return self.start + self.count


@dataclass(frozen=True)
class Copied:
    """The first positions of a page, copied to another once the pass has stored its own keys and values."""

    source: int
    page: int
    positions: int


class PagedTorchAttention:
    """Attention of one pass. Queries, keys and values meet in the type of the cache.

    Args:
        cache: this rank's.
        tables: rotary tables; None where there is no rotary embedding.
        positions: int64 ``[T]``, of each token in its sequence.
        spans: what the batch consists of, in order.
        copied: what is copied within the cache, in order.
    """

    def __init__(
        self,
        cache: KVCache,
        tables: RotaryTables | None,
        positions: torch.Tensor,
        spans: Sequence[CachedSpan],
        copied: Sequence[Copied] = (),
    ) -> None:
        self._cache, self._copied, self._rotary = cache, copied, None
        if tables is not None:
            cos, sin = (table[positions][:, None, None].to(cache.dtype) for table in tables)
            self._rotary = cos, sin
        size, device = cache.page_size, positions.device
        pages = [span.pages[at // size] for span in spans for at in range(span.start, span.length)]
        offsets = [at % size for span in spans for at in range(span.start, span.length)]
        # Plain numbers where there is one token: a slice is stored faster than by an index.
        self._at = (pages[0], offsets[0]) if len(pages) == 1 else None
        self._pages, self._offsets = torch.tensor(pages, device=device), torch.tensor(offsets, device=device)
        singles = [span for span in spans if span.count == 1 and span.length <= size]
        self._groups = [_Group(group, device) for group in _consecutive(singles)]
        grouped = {span.first for group in self._groups for span in group.spans}
        self._alone = [span for span in spans if span.first not in grouped]

    def attend(self, layer: int, qkv: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """As ``Attention.attend`` says."""
        keys, values = self._cache.layer(layer)
        dtype, qkv = qkv.dtype, qkv.to(keys.dtype)
        if self._rotary is not None:
            rotate_(qkv[:, :, :2], *self._rotary)
        q, k, v = qkv.unbind(2)
        if self._at is not None:
            page, offset = self._at
            keys[page, :, offset], values[page, :, offset] = k[0], v[0]
        else:
            keys[self._pages, :, self._offsets] = k
            values[self._pages, :, self._offsets] = v
        for copied in self._copied:
            block = slice(copied.positions)
            keys[copied.page, :, block] = keys[copied.source, :, block]
            values[copied.page, :, block] = values[copied.source, :, block]
        out = torch.empty_like(q)
        for group in self._groups:
            out[group.tokens] = group.attend(q[group.tokens], keys, values)
        for span in self._alone:
            block = slice(span.first, span.first + span.count)
            if span.start == 0:
                out[block] = _causal(q[block], k[block], v[block])
            else:
                out[block] = _to_cached(q[block], span, _gathered(keys, span), _gathered(values, span))
        out = out.flatten(1).to(dtype)
        return out if wanted is None else out[wanted]


class _Group:
    """Single tokens of sequences whose one page each lie one after the other in the cache."""

    def __init__(self, spans: Sequence[CachedSpan], device: torch.device) -> None:
        self.spans = spans
        self._first_page, self._length = spans[0].pages[0], max(span.length for span in spans)
        self.tokens = torch.tensor([span.first for span in spans], device=device)
        lengths = torch.tensor([span.length for span in spans], device=device)
        self._mask = None
        if min(span.length for span in spans) < self._length:
            self._mask = (torch.arange(self._length, device=device) < lengths[:, None])[:, None, None, :]

    def attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """``q``: ``[B, N, D]``; ``keys``, ``values``: ``[pages, N, P, D]``. Returns ``[B, N, D]``."""
        pages = slice(self._first_page, self._first_page + len(self.spans))
        k, v = keys[pages, :, : self._length], values[pages, :, : self._length]
        return F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=self._mask)[:, :, 0]


def _consecutive(singles: Sequence[CachedSpan]) -> Iterator[list[CachedSpan]]:
    """Groups of two and more whose pages lie one after the other and whose lengths are not too different."""
    group: list[CachedSpan] = []
    longest = 0
    for span in sorted(singles, key=lambda span: span.pages[0]):
        wasted = abs(span.length - longest) * (1 if span.length < longest else len(group))
        if group and (span.pages[0] != group[-1].pages[0] + 1 or wasted > _CALL_POSITIONS):
            if len(group) > 1:
                yield group
            group, longest = [], 0
        group.append(span)
        longest = max(longest, span.length)
    if len(group) > 1:
        yield group


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """A sequence from its beginning on, ``[T, N, D]`` each."""
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1)


def _to_cached(q: torch.Tensor, span: CachedSpan, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The tokens of a span ``[T, N, D]``, of a sequence that began before; ``k``, ``v``: ``[N, S, D]``."""
    mask = None
    if span.count > 1:
        positions = torch.arange(span.length, device=q.device)
        mask = positions <= positions[span.start :, None]
    q = q.transpose(0, 1).unsqueeze(0)
    return F.scaled_dot_product_attention(q, k.unsqueeze(0), v.unsqueeze(0), attn_mask=mask)[0].transpose(0, 1)


def _gathered(store: torch.Tensor, span: CachedSpan) -> torch.Tensor:
    """A sequence's keys or values, ``[N, S, D]``, out of ``[pages, N, P, D]``: a view where they are in one page."""
    used = span.pages[: -(-span.length // store.shape[2])]
    if len(used) == 1:
        return store[used[0], :, : span.length]
    return store[list(used)].transpose(0, 1).flatten(1, 2)[:, : span.length]
