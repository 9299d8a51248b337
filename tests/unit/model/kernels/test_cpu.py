"""The kernels that are chosen for speed compute the same as the plain ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neoxrun.model.kernels.cpu import Gelu, attention, linear, pack_weight


@pytest.mark.parametrize("gelu", ["erf", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("biased", [True, False])
def test_packed_weights(gelu: Gelu, dtype: torch.dtype, tokens: int, biased: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, tokens, 64), torch.randn(96, 64) / 8, torch.randn(96)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype) if biased else None
    wide = F.linear(*[None if one is None else one.double() for one in (x, weight, bias)])
    product = F.linear(x, weight, bias)
    approximate = {"erf": "none", "tanh": "tanh"}[gelu]
    packed = pack_weight(weight)
    for found, plain, exact in (
        (linear(x, packed, bias), product, wide),
        (
            linear(x, packed, bias, gelu),
            F.gelu(product, approximate=approximate),
            F.gelu(wide, approximate=approximate),
        ),
    ):
        assert found.dtype == dtype
        assert (found - exact).abs().max() <= 1.1 * (plain - exact).abs().max() + 1e-6


@pytest.mark.parametrize("gelu", [None, "erf", "tanh"])
@pytest.mark.parametrize("biased", [True, False])
def test_one_token_with_weights_that_are_not_packed(gelu: Gelu | None, biased: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 64), torch.randn(96, 64) / 8, torch.randn(96)
    x, weight, bias = x.bfloat16(), weight.bfloat16(), bias.bfloat16() if biased else None
    right = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    if gelu is not None:
        right = F.gelu(right, approximate={"erf": "none", "tanh": "tanh"}[gelu])
    enabled = torch.backends.mkldnn.enabled
    found = linear(x, weight, bias, gelu)
    assert torch.backends.mkldnn.enabled == enabled
    assert found.dtype == torch.bfloat16
    assert (found - right).abs().max() <= 2 * torch.finfo(torch.bfloat16).eps * right.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [1, 40, 330])  # both kernels
@pytest.mark.parametrize("masked", [True, False])
def test_attention(dtype: torch.dtype, length: int, masked: bool) -> None:
    """Queries and keys in fp32, as on the CPU."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, length, 16) for _ in range(3))
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    if masked:  # another mask for each row
        mask = mask & (torch.rand(3, 1, length, length) < 0.5) | torch.eye(length, dtype=torch.bool)
    scores = (q.double() @ k.double().mT / 4).masked_fill(~mask, -torch.inf)
    right = scores.softmax(-1) @ v.to(dtype).double()
    found = attention(q, k, v.to(dtype), mask if masked else None)
    assert found.dtype == dtype
    assert (found - right).abs().max() <= 8 * torch.finfo(dtype).eps * v.abs().max()
