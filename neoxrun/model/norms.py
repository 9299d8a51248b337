"""The two normalizations of GPT-NeoX models, and the residual stream between them.

Shapes: ``T`` tokens, ``H`` hidden.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from neoxrun.config.settings import ModelConfig
from neoxrun.model.kernels import triton_kernels
from neoxrun.model.layers import unfilled


class LayerNorm(nn.Module):
    """Layer normalization (Ba et al., 2016): ``[..., H] -> [..., H]``."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = unfilled(width)
        self.bias = unfilled(width)
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: ``[..., H]``."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class RMSNorm(nn.Module):
    """Root-mean-square normalization (Zhang and Sennrich, 2019): ``[..., H] -> [..., H]``; in fp32 as in GPT-NeoX."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.scale = unfilled(width)
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: ``[..., H]``."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return (self.scale * wide).to(x.dtype)


Norm = LayerNorm | RMSNorm


def build_norm(config: ModelConfig) -> Norm:
    """A norm of the configuration's kind, without storage."""
    kind = LayerNorm if config.norm == "layernorm" else RMSNorm
    return kind(config.hidden_size, config.norm_epsilon)


def add_and_normalize(
    x: torch.Tensor, parts: tuple[torch.Tensor, ...], norms: tuple[Norm, ...]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Add to the residual stream what a layer gives, and normalize the sum: one kernel where there is one.

    Args:
        x: ``[T, H]``.
        parts: at most two of ``[T, H]``; the sum is ``x`` plus the sum of the parts.
        norms: one, or two of the same kind.

    Returns:
        The sum, and each norm of it.
    """
    fused = triton_kernels(x.device)
    if fused is not None:
        weights = tuple(
            (norm.weight, norm.bias) if isinstance(norm, LayerNorm) else (norm.scale, None) for norm in norms
        )
        found: tuple[torch.Tensor, tuple[torch.Tensor, ...]] = fused.add_norms(x, parts, weights, norms[0].epsilon)
        return found
    if parts:
        x = x + (parts[0] if len(parts) == 1 else parts[0] + parts[1])
    return x, tuple(norm(x) for norm in norms)
