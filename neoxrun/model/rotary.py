"""Rotary position embeddings (Su et al., RoFormer, 2021), in GPT-NeoX's half-rotation form."""

from __future__ import annotations

import torch

from neoxrun.config.settings import ModelConfig

RotaryTables = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, ``[positions, R]`` each."""


def rotary_tables(config: ModelConfig, length: int, device: torch.device, dtype: torch.dtype) -> RotaryTables:
    """The tables for ``rotate_``: cosines and sines of the angles at each position, ``[length, R]`` each.

    ``R = int(head_dim * rotary_pct)``. The angles are ``position * base ** (-2i / R)`` in fp32, repeated for the two
    halves; the sines of the first half are negated. With ``rotary_legacy_fp16`` the angles are computed in fp16, as in
    GPT-NeoX before 2023-09-25, with which GPT-NeoX-20B was trained.
    """
    dims = int(config.head_dim * config.rotary_pct)
    exponents = torch.arange(0, dims, 2, dtype=torch.float32) / dims
    frequencies = 1.0 / (config.rotary_emb_base**exponents)
    angles_dtype = torch.float16 if config.rotary_legacy_fp16 else torch.float32
    positions = torch.arange(length, dtype=angles_dtype)
    angles = torch.outer(positions, frequencies.to(angles_dtype)).repeat(1, 2)
    sines = angles.sin()
    sines[:, : dims // 2].neg_()
    return angles.cos().to(device, dtype), sines.to(device, dtype)


def rotate_(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate the first ``R`` dims of each head, in place.

    Args:
        x: queries and keys together, ``[..., D]``. The time of a small model's decode step is that of launching its
            operations, and together they need half as many.
        cos, sin: ``[..., R]``, the tables at the tokens' positions.
    """
    rotated = x[..., : cos.shape[-1]]
    first, second = rotated.chunk(2, dim=-1)
    swapped = torch.cat((second, first), dim=-1)
    rotated.mul_(cos).addcmul_(swapped, sin)
