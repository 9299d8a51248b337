"""Rotary position embeddings (Su et al., RoFormer, 2021), in GPT-NeoX's half-rotation form."""

from __future__ import annotations

import torch

from neoxrun.settings import ModelConfig


def rotary_tables(
    config: ModelConfig, length: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the angles, each ``[length, R]`` with ``R = int(head_dim * rotary_pct)``.

    Angles are ``position * base ** (-2i / R)`` in fp32, repeated for the two halves. With ``rotary_legacy_fp16`` they
    are computed in fp16 as GPT-NeoX did before 2023-09-25, which is how GPT-NeoX-20B was trained.
    """
    dims = int(config.head_dim * config.rotary_pct)
    exponents = torch.arange(0, dims, 2, dtype=torch.float32) / dims
    frequencies = 1.0 / (config.rotary_emb_base**exponents)
    angles_dtype = torch.float16 if config.rotary_legacy_fp16 else torch.float32
    positions = torch.arange(length, dtype=angles_dtype)
    angles = torch.outer(positions, frequencies.to(angles_dtype)).repeat(1, 2)
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the first ``R`` dims of each head.

    Args:
        x: queries or keys, ``[B, T, N, D]``.
        cos, sin: ``[B, T, 1, R]`` or ``[1, T, 1, R]``, the tables at the tokens' positions.
    """
    dims = cos.shape[-1]
    turned, rest = x[..., :dims], x[..., dims:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned
