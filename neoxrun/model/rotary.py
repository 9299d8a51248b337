"""Rotary position embeddings (Su et al., RoFormer, 2021), in GPT-NeoX's half-rotation form."""

from __future__ import annotations

import math

import torch

from neoxrun.config.settings import ModelConfig, RopeScaling

RotaryTables = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, ``[positions, R]`` each."""


def rotary_tables(config: ModelConfig, length: int, device: torch.device, dtype: torch.dtype) -> RotaryTables:
    """The tables for ``rotate_``: cosines and sines of the angles at each position, ``[length, R]`` each.

    ``R = int(head_dim * rotary_pct)``. The angles are ``position * base ** (-2i / R)`` in fp32, repeated for the two
    halves, and scaled as ``rope_scaling`` says; the sines of the first half are negated. With ``rotary_legacy_fp16``
    the angles are computed in fp16, as in GPT-NeoX before 2023-09-25, with which GPT-NeoX-20B was trained.
    """
    dims = int(config.head_dim * config.rotary_pct)
    exponents = torch.arange(0, dims, 2, dtype=torch.float32) / dims
    frequencies, size = 1.0 / (config.rotary_emb_base**exponents), 1.0
    if (scaling := config.rope_scaling) is not None:
        frequencies, size = _scaled(frequencies, scaling, config.rotary_emb_base), scaling.attention_factor
    angles_dtype = torch.float16 if config.rotary_legacy_fp16 else torch.float32
    positions = torch.arange(length, dtype=angles_dtype)
    angles = torch.outer(positions, frequencies.to(angles_dtype)).repeat(1, 2)
    sines = angles.sin() * size
    sines[:, : dims // 2].neg_()
    return (angles.cos() * size).to(device, dtype), sines.to(device, dtype)


def _scaled(frequencies: torch.Tensor, scaling: RopeScaling, base: float) -> torch.Tensor:
    """Frequencies ``[R / 2]`` for a longer context, in the steps of transformers' ``modeling_rope_utils``."""
    slow = frequencies / scaling.factor
    if scaling.kind == "linear":
        return slow
    dims = 2 * len(frequencies)
    positions = scaling.original_max_position_embeddings
    first, last = (
        dims * math.log(positions / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dims - 1)
    width = last - first if first != last else 0.001
    share = ((torch.arange(len(frequencies), dtype=torch.float32) - first) / width).clamp(0, 1)
    return slow * share + frequencies * (1 - share)


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
