"""Tensors compared number by number, in every format that files may have."""

from __future__ import annotations

import pytest
import torch

from neoxrun.conversion.numbers import largest, largest_difference, same_bits, step_at

FORMATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.uint8)


@pytest.mark.parametrize("dtype", FORMATS)
def test_bits_of_every_format(dtype: torch.dtype) -> None:
    one = torch.tensor([1.0, 0.0, 3.0]).to(dtype)
    assert same_bits(one, one.clone())
    assert not same_bits(one, torch.tensor([1.0, 0.0, 2.0]).to(dtype))
    assert not same_bits(one, one[:2])
    assert not same_bits(one, one.to(torch.int64))


def test_bits_tell_what_numbers_do_not() -> None:
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bits(torch.tensor([float("nan")]), torch.tensor([float("nan")]))


def test_the_largest_is_infinite_where_one_is_not_a_number() -> None:
    assert largest(torch.tensor([1.0, -3.0])) == 3
    assert largest(torch.tensor([1.0, float("nan")])) == float("inf")
    assert largest(torch.empty(0)) == 0
    assert largest_difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])) == float("inf")
    assert largest_difference(torch.tensor([1, 2], dtype=torch.int8), torch.tensor([1, 5], dtype=torch.int8)) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_unit_in_the_step_at_leads_to_the_next_number(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 1.75, 2.0, 3.99, 1e-3, 1000.0]).to(dtype)
    bits = values.view(torch.int32 if dtype == torch.float32 else torch.int16) + 1
    assert torch.equal(step_at(values.float(), dtype), bits.view(dtype).float() - values.float())
    assert not step_at(values.float(), torch.int8).any()
