"""From a step to a batch on this rank's device: tables of pages, positions, and the attention that goes with them.

Shapes: ``T`` tokens, ``B`` of them single ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from neoxrun.engine.steps import Admission, Span, Step
from neoxrun.model.attention import Attention
from neoxrun.model.batch import Batch
from neoxrun.model.kernels import triton_kernels
from neoxrun.model.kv_cache import KVCache
from neoxrun.model.paged_cuda import CHUNK_ROWS, Chunks, PagedCudaAttention, Singles
from neoxrun.model.paged_torch import CachedSpan, Copied, PagedTorchAttention
from neoxrun.model.rotary import RotaryTables

_UNREAD = -1  # in place of an id: the token that the row's last step chose


class Batcher:
    """Keeps which pages each row has, and each row's newest token.

    Args:
        cache: this rank's.
        tables: rotary tables; None where there is no rotary embedding.
        rows: how many there are.
        length: most tokens of a sequence.
        device: where the batches go.
    """

    def __init__(
        self, cache: KVCache, tables: RotaryTables | None, rows: int, length: int, device: torch.device
    ) -> None:
        self._cache, self._tables, self._length, self._device = cache, tables, length, device
        self._pages = torch.zeros((rows, -(-length // cache.page_size)), dtype=torch.int32)
        self._held = [0] * rows
        # One row more, and on a GPU the cache's last page, for what only fills a batch up.
        self.newest = torch.zeros(rows + 1, dtype=torch.int64, device=device)
        self._padding = torch.zeros(3 + self._pages.shape[1], dtype=torch.int32)
        self._padding[0], self._padding[3:] = rows, cache.pages - 1

    @property
    def packed_width(self) -> int:
        """Numbers of each row that ``pack_singles`` makes."""
        return len(self._padding)

    def take_pages(self, step: Step) -> None:
        """Note the pages that the step's rows get."""
        for admission in step.admitted:
            self._held[admission.row] = 0
            self._append(admission.row, admission.pages)
        for span in step.spans:
            self._append(span.row, span.pages)

    def batch_of(self, step: Step) -> Batch:
        """The step's tokens, and an output for each span that is sampled."""
        spans = step.spans
        positions = self._on_device([at for span in spans for at in range(span.start, span.start + span.count)])
        ends, end = [], 0
        for span in spans:
            end += span.count
            if span.sampled:
                ends.append(end - 1)
        outputs = None if len(ends) == end else self._on_device(ends)
        if triton_kernels(self._device) is None:
            copied = [self._copied(admission) for admission in step.admitted if admission.copied is not None]
            cached = self._cached(spans)
            attention: Attention = PagedTorchAttention(self._cache, self._tables, positions, cached, copied)
        else:
            attention = self._paged_cuda(spans, positions)
        return Batch(self._ids(spans), positions, attention, outputs)

    def pack_singles(self, spans: Sequence[Span], size: int) -> torch.Tensor:
        """What ``batch_of_singles`` needs, int32 ``[size, 3 + pages of a row]`` in pinned memory.

        What is beyond the spans has no pages of its own: it is computed and nothing comes of it.
        """
        packed = torch.empty((size, 3 + self._pages.shape[1]), dtype=torch.int32, pin_memory=True)
        count = len(spans)
        heads = [(span.row, span.start, span.ids[0] if span.ids else _UNREAD) for span in spans]
        packed[:count, :3] = torch.tensor(heads, dtype=torch.int32).view(-1, 3)
        packed[:count, 3:] = self._pages[[span.row for span in spans]]
        packed[count:] = self._padding
        return packed

    def batch_of_singles(self, packed: torch.Tensor) -> Batch:
        """One token of each of several sequences, all of it on the device.

        Args:
            packed: int32, on the device: each row's number, position, id (or that it is the row's newest) and pages.
        """
        rows, positions, ids = packed[:, :3].long().t().contiguous().unbind(0)
        ids = torch.where(ids == _UNREAD, self.newest[rows], ids)
        pages = packed[:, 3:]
        size = self._cache.page_size
        slots = pages.gather(1, (positions // size)[:, None])[:, 0].long() * size + positions % size
        singles = Singles(pages, (positions + 1).int(), self._length)
        attention = PagedCudaAttention(self._cache, self._tables, positions, slots, singles, None)
        return Batch(ids, positions, attention)

    def note(self, rows: Sequence[int], tokens: torch.Tensor) -> None:
        """Keep the tokens that a step chose for its rows."""
        self.newest[self._on_device(rows)] = tokens

    def _ids(self, spans: Sequence[Span]) -> torch.Tensor:
        ids = self._on_device([token for span in spans for token in span.ids or (_UNREAD,)])
        unread = [span.row for span in spans if not span.ids]
        if unread:
            ids[ids == _UNREAD] = self.newest[self._on_device(unread)]
        return ids

    def _cached(self, spans: Sequence[Span]) -> list[CachedSpan]:
        found, first = [], 0
        for span in spans:
            pages = self._pages[span.row, : self._held[span.row]].tolist()
            found.append(CachedSpan(first, span.count, span.start, pages))
            first += span.count
        return found

    def _copied(self, admission: Admission) -> Copied:
        assert admission.copied is not None
        source, count = admission.copied
        return Copied(source, int(self._pages[admission.row, 0]), count)

    def _paged_cuda(self, spans: Sequence[Span], positions: torch.Tensor) -> Attention:
        size = self._cache.page_size
        pages = self._pages[[span.row for span in spans]].to(self._device, non_blocking=True)
        span_of = self._on_device([number for number, span in enumerate(spans) for _ in range(span.count)])
        slots = pages[span_of, positions // size].long() * size + positions % size
        count = sum(span.count == 1 for span in spans)  # they come first
        singles = chunks = None
        if count:
            most = max(span.start + 1 for span in spans[:count])
            singles = Singles(pages[:count], (positions[:count] + 1).int(), most)
        if count < len(spans):
            chunks = self._chunks(spans[count:], count, pages[count:])
        return PagedCudaAttention(self._cache, self._tables, positions, slots, singles, chunks)

    def _chunks(self, spans: Sequence[Span], first: int, pages: torch.Tensor) -> Chunks:
        starts = list(accumulate((span.count for span in spans), initial=first))[:-1]
        tiles = [(number, at) for number, span in enumerate(spans) for at in range(0, span.count, CHUNK_ROWS)]
        columns = (starts, [span.count for span in spans], [span.start for span in spans])
        return Chunks(
            pages.contiguous(),
            self._on_device(tiles, torch.int32),
            *(self._on_device(one, torch.int32) for one in columns),
        )

    def _append(self, row: int, pages: Sequence[int]) -> None:
        held = self._held[row]
        self._pages[row, held : held + len(pages)] = torch.tensor(pages, dtype=torch.int32)
        self._held[row] += len(pages)

    def _on_device(self, values: Sequence[object], dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype).to(self._device, non_blocking=True)
