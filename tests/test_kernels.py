"""A kernel that is chosen for speed computes what the plain ones do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neoxrun.model.kernels import linear_gelu


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("biased", [True, False])
def test_linear_gelu(approximate: str, dtype: torch.dtype, tokens: int, biased: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, tokens, 64), torch.randn(96, 64) / 8, torch.randn(96)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype) if biased else None
    exact = F.gelu(
        F.linear(x.double(), weight.double(), None if bias is None else bias.double()), approximate=approximate
    )
    plain = F.gelu(F.linear(x, weight, bias), approximate=approximate)
    found = linear_gelu(x, weight, bias, approximate)
    assert found.dtype == dtype
    assert (found - exact).abs().max() <= 1.1 * (plain - exact).abs().max() + 1e-6
