"""Which of torch's kernels computes what, where there is more than one."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

_FUSED_TOKENS = 16  # fewer are no faster in one kernel


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, approximate: str) -> torch.Tensor:
    """``GELU(x W^T + b)``.

    In bf16 on a CPU it is one kernel, oneDNN's, for which torch has no public name: GELU by itself takes a third of
    the product's time there, most of it to read and write memory (benchmarks/README.md). Its result is rounded once.

    Args:
        x: ``[B, T, I]``.
        weight: ``[O, I]``.
        bias: ``[O]``.
        approximate: as ``F.gelu`` takes it.

    Returns:
        ``[B, T, O]``.
    """
    if x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[:-1].numel() >= _FUSED_TOKENS and _has_fused():
        fused: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], approximate)
        return fused
    return F.gelu(F.linear(x, weight, bias), approximate=approximate)


@cache
def _has_fused() -> bool:
    ours = torch.ops.mkldnn
    return hasattr(ours, "_linear_pointwise") and bool(ours._is_mkldnn_bf16_supported())
