"""Triton kernels of a forward pass on a GPU: what lies between the matrix products.

Each does in one pass over memory what torch's own operations do in several. All sums are in fp32, and each result is
rounded once; what a rank sends to others is rounded, too.

Shapes: ``T`` tokens, ``H`` hidden, ``N`` this rank's heads, ``D`` head dim, ``R`` rotary dims, ``P`` keys of a page.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from neoxrun.model.kernels.paged import attend_many, attend_one
from neoxrun.parallel.peers import PeerMemory

__all__ = ["add_norms", "attend_many", "attend_one", "rotate_store"]


# --- residual and norms ---------------------------------------------------------------------------------------------


@triton.jit
def _sum_over_ranks(
    own, peers_ptr, uses_ptr, row, column, inside, width, rows, flags_at,
    RANK: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    """The sum of all ranks' ``own``, in fp32 and in the order of the ranks, so that all have the same bits.

    Each rank writes its row into the other ranks' buffers, and then their flags. The two halves of a buffer take turns:
    a rank writes one again only after it has seen the flag of a later row, which its owner sets when it has read it.
    """
    use = tl.load(uses_ptr + row) + 1
    half = (use & 1).to(tl.int64) * RANKS
    table = rows.to(tl.int64) * width
    at = row.to(tl.int64) * width + column
    for rank in tl.static_range(RANKS):
        if rank != RANK:
            other = tl.load(peers_ptr + rank).to(tl.pointer_type(own.dtype))
            tl.store(other + (half + RANK) * table + at, own, mask=inside)
    tl.debug_barrier()  # all of the row is written before the flags are
    for rank in tl.static_range(RANKS):
        if rank != RANK:
            flags = (tl.load(peers_ptr + rank) + flags_at).to(tl.pointer_type(tl.int32))
            tl.atomic_xchg(flags + RANK * rows + row, use, sem="release", scope="sys")
    mine = tl.load(peers_ptr + RANK)
    total = tl.zeros_like(own).to(tl.float32)
    for rank in tl.static_range(RANKS):
        if rank == RANK:
            total += own.to(tl.float32)
        else:
            flag = (mine + flags_at).to(tl.pointer_type(tl.int32)) + rank * rows + row
            while tl.atomic_add(flag, 0, sem="acquire", scope="sys") - use < 0:
                pass
            arrived = mine.to(tl.pointer_type(own.dtype)) + (half + rank) * table + at
            total += tl.load(arrived, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)  # not from the L1
    tl.store(uses_ptr + row, use)
    return total


@triton.jit
def _add_norms(
    x_ptr, first_ptr, second_ptr, sum_ptr, out1_ptr, out2_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, width, epsilon,
    peers_ptr, uses_ptr, peer_rows, flags_at,
    PARTS: tl.constexpr, NORMS: tl.constexpr, RMS: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    row = number.to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row + column, mask=inside, other=0.0).to(tl.float32)
    w1 = tl.load(w1_ptr + column, mask=inside, other=0.0)
    b1 = tl.load(b1_ptr + column, mask=inside, other=0.0)
    w2 = tl.load(w2_ptr + column, mask=inside, other=0.0)
    b2 = tl.load(b2_ptr + column, mask=inside, other=0.0)
    if RANKS > 1:
        own = tl.load(first_ptr + row + column, mask=inside, other=0.0)
        if PARTS > 1:
            second = tl.load(second_ptr + row + column, mask=inside, other=0.0)
            own = (own.to(tl.float32) + second.to(tl.float32)).to(own.dtype)
        x += _sum_over_ranks(own, peers_ptr, uses_ptr, number, column, inside, width, peer_rows, flags_at, RANK, RANKS)
    else:
        if PARTS > 0:
            x += tl.load(first_ptr + row + column, mask=inside, other=0.0).to(tl.float32)
        if PARTS > 1:
            x += tl.load(second_ptr + row + column, mask=inside, other=0.0).to(tl.float32)
    if PARTS > 0:
        rounded = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row + column, rounded, mask=inside)
        x = rounded.to(tl.float32)  # what the next layer will read
    if RMS:
        centred = x
    else:
        centred = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    scaled = centred * tl.rsqrt(tl.sum(centred * centred, 0) / width + epsilon)
    y = scaled * w1.to(tl.float32)
    if not RMS:
        y += b1.to(tl.float32)
    tl.store(out1_ptr + row + column, y.to(out1_ptr.dtype.element_ty), mask=inside)
    if NORMS > 1:
        y = scaled * w2.to(tl.float32)
        if not RMS:
            y += b2.to(tl.float32)
        tl.store(out2_ptr + row + column, y.to(out2_ptr.dtype.element_ty), mask=inside)


def add_norms(
    x: torch.Tensor,
    parts: tuple[torch.Tensor, ...],
    norms: tuple[tuple[torch.Tensor, torch.Tensor | None], ...],
    epsilon: float,
    peers: PeerMemory | None = None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The residual stream plus what a layer adds to it, and one or two norms of the sum.

    Args:
        x: ``[T, H]``.
        parts: at most two of ``[T, H]``; with ``peers`` at least one.
        norms: weight and bias ``[H]`` of each; without a bias it is root-mean-square normalization.
        epsilon: of the norms.
        peers: the other ranks, whose parts are added, too, in the same call on each of them; None: there is nothing to
            add.

    Returns:
        The sum (``x`` itself where there are no parts), and each of its norms.
    """
    tokens, width = x.shape
    total = torch.empty_like(x) if parts else x
    outs = tuple(torch.empty_like(x) for _ in norms)
    first, second = (*parts, x, x)[:2]
    (w1, b1), (w2, b2) = (*norms, norms[0])[:2]
    block = triton.next_power_of_2(width)
    exchange = (x, x, 0, 0) if peers is None else (peers.addresses, peers.uses, peers.rows, peers.flags_at)
    _add_norms[(tokens,)](
        x, first, second, total, outs[0], outs[-1], w1, b1 if b1 is not None else w1, w2, b2 if b2 is not None else w2,
        width, epsilon, *exchange, PARTS=len(parts), NORMS=len(norms), RMS=b1 is None,
        RANK=peers.rank if peers is not None else 0, RANKS=peers.ranks if peers is not None else 1, BLOCK=block,
        num_warps=min(16, max(1, block // 256)),
    )  # fmt: skip
    return total, outs


# --- rotary embedding and cache -------------------------------------------------------------------------------------


@triton.jit
def _rotate_store(
    qkv_ptr, cos_ptr, sin_ptr, positions_ptr, slots_ptr, q_ptr, keys_ptr, values_ptr, heads,
    D: tl.constexpr, R: tl.constexpr, P: tl.constexpr, HEADS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    dim = tl.arange(0, WIDE)[None, :]
    inside = (head < heads) & (dim < D)
    at = head * 3 * D + dim
    row = qkv_ptr + token * heads * 3 * D
    q = tl.load(row + at, mask=inside, other=0.0).to(tl.float32)
    k = tl.load(row + at + D, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(row + at + 2 * D, mask=inside, other=0.0).to(tl.float32)
    if R > 0:
        turned = inside & (dim < R)
        other = at + tl.where(dim < R // 2, R // 2, -(R // 2))
        q2 = tl.load(row + other, mask=turned, other=0.0).to(tl.float32)
        k2 = tl.load(row + other + D, mask=turned, other=0.0).to(tl.float32)
        table = tl.load(positions_ptr + token) * R + dim
        cos = tl.load(cos_ptr + table, mask=dim < R, other=1.0).to(tl.float32)
        sin = tl.load(sin_ptr + table, mask=dim < R, other=0.0).to(tl.float32)
        q = q * cos + q2 * sin
        k = k * cos + k2 * sin
    tl.store(q_ptr + token * heads * D + head * D + dim, q.to(q_ptr.dtype.element_ty), mask=inside)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    cached = ((slot // P) * heads + head) * P * D + (slot % P) * D + dim
    tl.store(keys_ptr + cached, k.to(keys_ptr.dtype.element_ty), mask=inside)
    tl.store(values_ptr + cached, v.to(values_ptr.dtype.element_ty), mask=inside)


def rotate_store(
    qkv: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor] | None,
    positions: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """Turn queries and keys, and put keys and values into the cache.

    Args:
        qkv: ``[T, N, 3, D]``.
        rotary: tables ``[positions, R]``; the sines of the first half are negative.
        positions: int64 ``[T]``.
        slots: int64 ``[T]``, where each token's key and value go: page times ``P`` plus the offset in the page.
        keys, values: ``[pages, N, P, D]``.

    Returns:
        The turned queries, ``[T, N, D]``.
    """
    tokens, heads, _, dim = qkv.shape
    q = torch.empty((tokens, heads, dim), dtype=qkv.dtype, device=qkv.device)
    cos, sin = rotary if rotary is not None else (qkv, qkv)
    together = 4
    _rotate_store[(tokens, triton.cdiv(heads, together))](
        qkv, cos, sin, positions, slots, q, keys, values, heads,
        D=dim, R=cos.shape[-1] if rotary is not None else 0, P=keys.shape[2], HEADS=together,
        WIDE=triton.next_power_of_2(dim), num_warps=2,
    )  # fmt: skip
    return q
