"""Tensors compared number by number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

_PIECE: Final = 1 << 22
_BITS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same type, the same shape and the same bits."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    kind = _BITS[first.dtype.itemsize]
    return torch.equal(first.contiguous().view(kind), second.contiguous().view(kind))


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Equal parts of tensors of one shape, flat, in fp32 and small, so that a large tensor is never copied whole."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    for first in range(0, len(flat[0]), _PIECE):
        yield tuple(one[first : first + _PIECE].float() for one in flat)


def largest(values: Tensor) -> float:
    """The largest absolute value; infinity where one is not a number, 0 where there are no values."""
    if not values.numel():
        return 0.0
    value = float(values.abs().max())  # NaN if any value is
    return value if value == value else float("inf")


def largest_difference(first: Tensor, second: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape; infinity where it is not a number."""
    return max((largest(one - other) for one, other in pieces(first, second)), default=0.0)


def step_at(values: Tensor, dtype: torch.dtype) -> Tensor:
    """How far the next larger number of a number format is from each value's size; 0 if it holds whole numbers only."""
    if not dtype.is_floating_point:
        return torch.zeros_like(values)
    limits = torch.finfo(dtype)
    exponent = torch.frexp(values.abs().clamp_min(limits.smallest_normal)).exponent
    return torch.ldexp(torch.full_like(values, limits.eps), exponent - 1)
