"""The Triton kernels, against the same in fp64: on a GPU, or where there is none under Triton's interpreter."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
from neoxrun.model.kernels import fused, paged

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.float16, torch.bfloat16] if DEVICE.type == "cuda" else [torch.float32, torch.float16]
HEAD_DIMS = [64, 80, 96, 128, 256] if DEVICE.type == "cuda" else [80, 64]
HEADS = 3
LENGTHS = (5, 70, 1, 600, 256)
BOUND = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


class Draw:
    """Fresh random numbers."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._generator = torch.Generator(DEVICE).manual_seed(0)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator, device=DEVICE).to(self.dtype)


def far(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found.double() - right.double()).norm() / right.double().norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [0, 1, 2])
@pytest.mark.parametrize("norms", [1, 2])
@pytest.mark.parametrize("biased", [True, False], ids=["layernorm", "rmsnorm"])
def test_add_norms(dtype: torch.dtype, parts: int, norms: int, biased: bool) -> None:
    draw, width = Draw(dtype), 80
    x, added = draw(4, width), tuple(draw(4, width) for _ in range(parts))
    weights = tuple((draw(width), draw(width) if biased else None) for _ in range(norms))
    total, outs = fused.add_norms(x, added, weights, 1e-5)
    assert far(total, sum((part.double() for part in added), x.double())) < BOUND[dtype]
    for out, (weight, bias) in zip(outs, weights, strict=True):
        wide = total.double()
        if bias is not None:
            right = F.layer_norm(wide, (width,), weight.double(), bias.double(), 1e-5)
        else:
            right = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5) * weight.double()
        assert out.dtype == dtype
        assert far(out, right) < BOUND[dtype]


class Cached:
    """Sequences of random queries, keys and values in pages that lie anywhere in the cache."""

    def __init__(self, dtype: torch.dtype, dim: int, page: int) -> None:
        draw = Draw(dtype)
        counts = [-(-length // page) for length in LENGTHS]
        order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(1)).to(torch.int32).to(DEVICE)
        # A row is longer than its sequence's pages, and lies within something wider.
        wide = torch.zeros((len(LENGTHS), max(counts) + 3), dtype=torch.int32, device=DEVICE)
        self.pages = wide[:, 3:]
        for row, pages in enumerate(order.split(counts)):
            self.pages[row, : len(pages)] = pages
        self.keys = draw(sum(counts), HEADS, page, dim)
        self.values = draw(sum(counts), HEADS, page, dim)
        self.queries = [draw(length, HEADS, dim) for length in LENGTHS]
        self.page = page

    def of(self, row: int, store: torch.Tensor) -> torch.Tensor:
        """A sequence's keys or values, ``[S, N, D]``."""
        return store[self.pages[row].long()].transpose(1, 2).flatten(0, 1)[: LENGTHS[row]]

    def right(self, row: int, count: int) -> torch.Tensor:
        """Attention of the last ``count`` tokens of a sequence."""
        q, k, v = self.queries[row][-count:].double(), self.of(row, self.keys), self.of(row, self.values)
        scores = torch.einsum("qhd,khd->hqk", q, k.double()) * q.shape[-1] ** -0.5
        length = LENGTHS[row]
        seen = torch.arange(length, device=DEVICE) <= torch.arange(length - count, length, device=DEVICE)[:, None]
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, v.double()).flatten(1)


def numbers(values: list[int] | list[tuple[int, int]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", HEAD_DIMS)
@pytest.mark.parametrize("page", [16, 32])
def test_attention_of_single_tokens(dtype: torch.dtype, dim: int, page: int) -> None:
    cached = Cached(dtype, dim, page)
    q = torch.stack([queries[-1] for queries in cached.queries])
    right = torch.cat([cached.right(row, 1) for row in range(len(LENGTHS))])
    outs = []
    for most in (max(LENGTHS), 4 * paged.SPLIT_KEYS):
        out = torch.full_like(right, torch.nan, dtype=dtype)
        fused.attend_one(q, cached.keys, cached.values, cached.pages, numbers(list(LENGTHS)), most, out)
        assert far(out, right) < BOUND[dtype]
        outs.append(out)
    assert torch.equal(*outs), "a result depends on the longest length that there may be"
    alone = torch.full_like(right[1:2], torch.nan, dtype=dtype)
    fused.attend_one(q[1:2], cached.keys, cached.values, cached.pages[1:2], numbers([LENGTHS[1]]), LENGTHS[1], alone)
    assert torch.equal(alone, outs[0][1:2]), "a result depends on the neighbours"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", HEAD_DIMS)
def test_attention_of_spans(dtype: torch.dtype, dim: int) -> None:
    cached, tile_rows = Cached(dtype, dim, 16), 64
    counts = [5, 40, 1, 63, 156]
    q = torch.cat([queries[-count:] for queries, count in zip(cached.queries, counts, strict=True)])
    starts = [sum(counts[:row]) for row in range(len(counts))]
    befores = [length - count for length, count in zip(LENGTHS, counts, strict=True)]
    tiles = [(row, at) for row, count in enumerate(counts) for at in range(0, count, tile_rows)]
    out = torch.full((len(q), HEADS * dim), torch.nan, dtype=dtype, device=DEVICE)
    fused.attend_many(
        q, cached.keys, cached.values, cached.pages, numbers(tiles), numbers(starts), numbers(counts), numbers(befores),
        out, tile_rows,
    )  # fmt: skip
    assert far(out, torch.cat([cached.right(row, count) for row, count in enumerate(counts)])) < BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", HEAD_DIMS)
@pytest.mark.parametrize("turned", [0, 16, 64])
def test_rotary_and_cache(dtype: torch.dtype, dim: int, turned: int) -> None:
    draw, page, tokens = Draw(dtype), 16, 7
    keys, values = draw(4, HEADS, page, dim), draw(4, HEADS, page, dim)
    before = keys.clone(), values.clone()
    qkv = draw(tokens, HEADS, 3, dim)
    positions = torch.tensor([0, 5, 9, 1, 63, 30, 2], device=DEVICE)
    slots = torch.tensor([3, 20, 21, 40, 63, 5, 0], device=DEVICE)
    angles = torch.rand(64, max(turned, 2) // 2, device=DEVICE).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    sin[:, : turned // 2].neg_()
    q = fused.rotate_store(qkv, (cos, sin) if turned else None, positions, slots, keys, values)
    wide = qkv.double()
    if turned:
        part = wide[..., :2, :turned]
        first, second = part.chunk(2, -1)
        at = positions[:, None, None]
        wide[..., :2, :turned] = part * cos.double()[at] + torch.cat((second, first), -1) * sin.double()[at]
    assert far(q, wide[:, :, 0]) < BOUND[dtype]
    pages, offsets = slots // page, slots % page
    for store, old, index in ((keys, before[0], 1), (values, before[1], 2)):
        assert far(store[pages, :, offsets], wide[:, :, index]) < BOUND[dtype]
        store[pages, :, offsets] = old[pages, :, offsets]
        assert torch.equal(store, old), "something else was written too"
