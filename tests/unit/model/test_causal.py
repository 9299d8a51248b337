"""Causal attention against the plain formula in fp64, with its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from neoxrun.model.causal import CausalAttention
from neoxrun.model.rotary import rotary_tables
from neoxrun.model.training_form import Dropout
from support.checkpoints import tiny
from support.ranks import CPU

NO_DROPOUT = Dropout(0, CPU, 0)


def plain(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One row ``[T, N, 3, D]``, with tables of ``[T, R]``, whose sines are negated in the first half."""
    length, _, _, width = qkv.shape
    half = cos.shape[1] // 2
    q, k, v = (qkv[:, :, part] for part in range(3))
    turned = []
    for x in (q, k):
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        c, s = cos[:, None, :half], sin[:, None, half:]
        turned.append(torch.cat((first * c - second * s, second * c + first * s, rest), -1))
    scores = torch.einsum("inw,jnw->nij", *turned) / math.sqrt(width)
    scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -math.inf)
    return torch.einsum("nij,jnw->inw", scores.softmax(-1), v).flatten(1)


@pytest.mark.parametrize("width", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_rows_see_what_stands_before(width: int, share: float) -> None:
    config = tiny(hidden_size=2 * width, num_attention_heads=2, rotary_pct=share, seq_length=7)
    tables = rotary_tables(config, 9, CPU, torch.float64)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(3 * 7, 2, 3, width, generator=generator, dtype=torch.float64, requires_grad=True)
    out = CausalAttention(7, tables, NO_DROPOUT).attend(0, qkv)
    expected = torch.cat([plain(row, tables[0][:7], tables[1][:7]) for row in qkv.split(7)])
    torch.testing.assert_close(out, expected)
    weights = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((out * weights).sum(), qkv, retain_graph=True)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), qkv)
    torch.testing.assert_close(gradient, wanted)


def test_dropout_of_weights_is_repeated_for_the_same_place() -> None:
    dropout = Dropout(5, CPU, 0, attention=0.5)
    dropout.active = True
    qkv = torch.randn(8, 2, 3, 16, generator=torch.Generator().manual_seed(0))
    attention = CausalAttention(8, None, dropout)

    def attend(micro_batch: int, layer: int) -> Tensor:
        dropout.begin(micro_batch)
        dropout.enter(layer)
        return attention.attend(layer, qkv)

    first = attend(0, 1)
    assert torch.equal(attend(0, 1), first)
    assert not torch.equal(attend(1, 1), first)
    assert not torch.equal(attend(0, 2), first)
    dropout.active = False
    assert not torch.equal(attend(0, 1), first)
    torch.testing.assert_close(attend(0, 1), CausalAttention(8, None, NO_DROPOUT).attend(0, qkv))
