"""A kernel that is chosen for speed computes what the plain ones do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neoxrun.kernels import linear, linear_gelu, packed


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("biased", [True, False])
def test_packed_weights(approximate: str, dtype: torch.dtype, tokens: int, biased: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, tokens, 64), torch.randn(96, 64) / 8, torch.randn(96)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype) if biased else None
    wide = F.linear(*[None if one is None else one.double() for one in (x, weight, bias)])
    product = F.linear(x, weight, bias)
    own = packed(weight)
    for found, plain, exact in (
        (linear(x, own, bias), product, wide),
        (
            linear_gelu(x, own, bias, approximate),
            F.gelu(product, approximate=approximate),
            F.gelu(wide, approximate=approximate),
        ),
    ):
        assert found.dtype == dtype
        assert (found - exact).abs().max() <= 1.1 * (plain - exact).abs().max() + 1e-6
