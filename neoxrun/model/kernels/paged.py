"""Triton kernels for attention over a paged key-value cache. All sums are in fp32.

Splits are counted in keys and do not depend on the batch, so that a sequence's result does not depend on its
neighbours.

Shapes: ``T`` tokens, ``B`` sequences, ``N`` this rank's heads, ``D`` head dim, ``P`` positions of a page.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

SPLIT_KEYS = 256
"""Keys that one program of the decode kernel goes through."""

_DECODE_KEYS = 32  # keys of one step of that loop
_NO_SCORE = -1e30  # below every score; finite, so that the difference of two is a number


# --- attention of single tokens -------------------------------------------------------------------------------------


@triton.jit
def _decode(
    q_ptr, keys_ptr, values_ptr, pages_ptr, lengths_ptr, out_ptr, parts_ptr, sums_ptr, heads, splits, most_pages,
    scale, D: tl.constexpr, P: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
    NONE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(lengths_ptr + row)
    first = split * SPLIT
    if first >= length:
        return
    last = tl.minimum(first + SPLIT, length)
    dim = tl.arange(0, WIDE)
    inside = dim < D
    lane = (row * heads + head).to(tl.int64)
    q = tl.load(q_ptr + lane * D + dim, mask=inside, other=0.0).to(tl.float32) * scale
    # Each of the BLOCK lanes has a softmax of its own, of every BLOCK-th key. They meet after the loop, so that nothing
    # in it waits for other warps.
    best = tl.full([BLOCK], NONE, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    out = tl.zeros([BLOCK, WIDE], tl.float32)
    for start in range(first, last, BLOCK):
        key = start + tl.arange(0, BLOCK)
        seen = key < last
        page = tl.load(pages_ptr + row * most_pages + key // P, mask=seen, other=0).to(tl.int64)
        at = ((page * heads + head) * P + key % P)[:, None] * D + dim[None, :]
        mask = seen[:, None] & inside[None, :]
        # Converted only when both are on their way: otherwise the values are asked for when the keys have come.
        k = tl.load(keys_ptr + at, mask=mask, other=0.0)
        v = tl.load(values_ptr + at, mask=mask, other=0.0)
        scores = tl.where(seen, tl.sum(k.to(tl.float32) * q[None, :], 1), NONE)
        highest = tl.maximum(best, scores)
        weights = tl.where(seen, tl.exp(scores - highest), 0.0)
        shrink = tl.exp(best - highest)
        total = total * shrink + weights
        out = out * shrink[:, None] + weights[:, None] * v.to(tl.float32)
        best = highest
    top = tl.max(best, 0)
    weights = tl.exp(best - top)
    sum_of_weights = tl.sum(total * weights, 0)
    result = tl.sum(out * weights[:, None], 0)
    if length <= SPLIT:
        tl.store(out_ptr + lane * D + dim, (result / sum_of_weights).to(out_ptr.dtype.element_ty), mask=inside)
    else:
        part = lane * splits + split
        tl.store(parts_ptr + part * D + dim, result, mask=inside)
        tl.store(sums_ptr + part * 2, top)
        tl.store(sums_ptr + part * 2 + 1, sum_of_weights)


@triton.jit
def _merge(
    parts_ptr, sums_ptr, lengths_ptr, out_ptr, heads, splits,
    D: tl.constexpr, SPLIT: tl.constexpr, MANY: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    length = tl.load(lengths_ptr + row)
    if length <= SPLIT:
        return
    lane = (row * heads + tl.program_id(1)).to(tl.int64)
    split = tl.arange(0, MANY)
    there = split * SPLIT < length
    dim = tl.arange(0, WIDE)
    inside = dim < D
    part = lane * splits + split
    best = tl.load(sums_ptr + part * 2, mask=there, other=-float("inf"))
    weight = tl.exp(best - tl.max(best, 0))
    total = tl.sum(weight * tl.load(sums_ptr + part * 2 + 1, mask=there, other=0.0), 0)
    parts = tl.load(parts_ptr + part[:, None] * D + dim[None, :], mask=there[:, None] & inside[None, :], other=0.0)
    out = tl.sum(weight[:, None] * parts, 0) / total
    tl.store(out_ptr + lane * D + dim, out.to(out_ptr.dtype.element_ty), mask=inside)


def attend_one(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    pages: torch.Tensor,
    lengths: torch.Tensor,
    most: int,
    out: torch.Tensor,
) -> None:
    """Attention of one token of each sequence to its cached keys, its own included.

    Args:
        q: ``[B, N, D]``.
        keys, values: ``[pages, N, P, D]``.
        pages: int32 ``[B, most pages]``, rows of any stride.
        lengths: int32 ``[B]``, cached tokens; a row with none is left as it is.
        most: no length is greater.
        out: ``[B, N * D]``, is written.
    """
    rows, heads, dim = q.shape
    splits = triton.cdiv(most, SPLIT_KEYS)
    parts = torch.empty((rows, heads, splits, dim), dtype=torch.float32, device=q.device)
    sums = torch.empty((rows, heads, splits, 2), dtype=torch.float32, device=q.device)
    wide = triton.next_power_of_2(dim)
    _decode[(rows, heads, splits)](
        q, keys, values, pages, lengths, out, parts, sums, heads, splits, pages.stride(0), dim**-0.5,
        D=dim, P=keys.shape[2], SPLIT=SPLIT_KEYS, BLOCK=_DECODE_KEYS, WIDE=wide, NONE=_NO_SCORE,
        num_warps=4,
    )  # fmt: skip
    if splits > 1:
        _merge[(rows, heads)](
            parts, sums, lengths, out, heads, splits,
            D=dim, SPLIT=SPLIT_KEYS, MANY=triton.next_power_of_2(splits), WIDE=wide, num_warps=4,
        )  # fmt: skip


# --- attention of many tokens ---------------------------------------------------------------------------------------


@triton.jit
def _prefill(
    q_ptr, keys_ptr, values_ptr, pages_ptr, tiles_ptr, starts_ptr, counts_ptr, befores_ptr, out_ptr, heads, most_pages,
    scale, D: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    head = tl.program_id(1)
    span = tl.load(tiles_ptr + tile * 2)
    first = tl.load(tiles_ptr + tile * 2 + 1)  # token of the span
    count = tl.load(counts_ptr + span)
    before = tl.load(befores_ptr + span)  # tokens of the sequence that are cached already
    start = tl.load(starts_ptr + span)  # of the span in the batch
    token = first + tl.arange(0, ROWS)
    dim = tl.arange(0, WIDE)
    inside = dim < D
    rows = ((start + token).to(tl.int64) * heads + head)[:, None] * D + dim[None, :]
    mask = (token < count)[:, None] & inside[None, :]
    q = tl.load(q_ptr + rows, mask=mask, other=0.0)
    position = before + token
    best = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, WIDE], tl.float32)
    end = tl.minimum(before + first + ROWS, before + count)
    for at in range(0, end, BLOCK):
        key = at + tl.arange(0, BLOCK)
        page = tl.load(pages_ptr + span * most_pages + key // P, mask=key < end, other=0).to(tl.int64)
        cached = ((page * heads + head) * P + key % P)[:, None] * D + dim[None, :]
        there = (key < end)[:, None] & inside[None, :]
        k = tl.load(keys_ptr + cached, mask=there, other=0.0)
        v = tl.load(values_ptr + cached, mask=there, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where((key[None, :] <= position[:, None]) & (key < end)[None, :], scores, -float("inf"))
        highest = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp(scores - highest[:, None])
        shrink = tl.exp(best - highest)
        total = total * shrink + tl.sum(weights, 1)
        out = out * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        best = highest
    tl.store(out_ptr + rows, (out / total[:, None]).to(out_ptr.dtype.element_ty), mask=mask)


def attend_many(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    pages: torch.Tensor,
    tiles: torch.Tensor,
    starts: torch.Tensor,
    counts: torch.Tensor,
    befores: torch.Tensor,
    out: torch.Tensor,
    tile_rows: int,
) -> None:
    """Causal attention of spans of tokens to what is cached of their sequences, themselves included.

    Args:
        q: ``[T, N, D]``.
        keys, values: ``[pages, N, P, D]``.
        pages: int32 ``[spans, most pages]``.
        tiles: int32 ``[tiles, 2]``: a span, and the first of its tokens of each ``tile_rows``.
        starts, counts, befores: int32 ``[spans]``: a span's first token in the batch, its tokens, and the cached tokens
            that precede them.
        out: ``[T, N * D]``; the rows of the spans are written.
        tile_rows: tokens of one program.
    """
    _, heads, dim = q.shape
    wide = max(16, triton.next_power_of_2(dim))  # the least that tl.dot takes
    _prefill[(len(tiles), heads)](
        q, keys, values, pages, tiles, starts, counts, befores, out, heads, pages.stride(0), dim**-0.5,
        D=dim, P=keys.shape[2], ROWS=tile_rows, BLOCK=64 if wide <= 128 else 32, WIDE=wide,
        num_warps=8 if tile_rows > 64 else 4,
    )  # fmt: skip
