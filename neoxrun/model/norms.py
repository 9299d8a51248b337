"""The two normalizations of GPT-NeoX models, over the last dim ``H``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from neoxrun.config.settings import ModelConfig
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
