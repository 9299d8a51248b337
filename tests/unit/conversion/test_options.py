"""Sizes as people write them."""

from __future__ import annotations

import pytest

from neoxrun.conversion.options import parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [("5GB", 5 * 10**9), ("1.5 gb", 1_500_000_000), ("500MB", 5 * 10**8), ("2GiB", 2**31), ("4096", 4096)],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5 apples", "1e9", "0.1"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)
