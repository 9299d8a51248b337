"""Compressed files are read as what is in them, or named as damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable

import pyarrow
import pytest

from neoxrun.errors import DataError
from neoxrun.input.compression import decompressed

LINES = [b"line %d of many\n" % number for number in range(50_000)]
WAYS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "nothing": bytes,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("parts", [1, 2])
def test_lines_come_out_as_they_went_in(way: str, parts: int) -> None:
    data = WAYS[way](b"".join(LINES)) * parts
    with decompressed(io.BytesIO(data), "a") as file:
        assert list(file) == LINES * parts


@pytest.mark.parametrize("way", [way for way in WAYS if way != "nothing"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damage_is_named(way: str, damage: str) -> None:
    data = WAYS[way](b"".join(LINES))
    half = len(data) // 2
    data = data[:half] if damage == "cut" else data[:half] + bytes(64) + data[half + 64 :]
    with (
        pytest.raises(DataError, match=r"a\.gz is compressed") as caught,
        decompressed(io.BytesIO(data), "a.gz") as file,
    ):
        list(file)
    assert (caught.value.code, caught.value.where) == ("bad_input", "a.gz")


def test_the_systems_errors_stay_its_own() -> None:
    error = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output") as caught, decompressed(io.BytesIO(b"a"), "a"):
        raise error
    assert caught.value is error


def test_archives_are_refused() -> None:
    with pytest.raises(DataError, match="zip archive") as caught, decompressed(io.BytesIO(b"PK\x03\x04rest"), "a.xlsx"):
        pass
    assert caught.value.code == "not_text"
