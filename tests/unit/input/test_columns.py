"""Parquet: its rows, a few columns of them, and damage."""

from __future__ import annotations

import gzip
import io
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from neoxrun.errors import DataError
from neoxrun.input.columns import read_parquet


def written(columns: dict[str, list[Any]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def test_rows_of_several_batches() -> None:
    data = written({"prompt": [f"p{n}" for n in range(2500)], "n": list(range(2500))})
    rows = list(read_parquet(io.BytesIO(data), "a.parquet", None))
    assert [row.value for row in rows] == [{"prompt": f"p{n}", "n": n} for n in range(2500)]
    assert rows[-1].where == "a.parquet, row 2500"


def test_nested_columns_and_nulls() -> None:
    values = {"messages": [[{"role": "user", "content": "a"}], None], "meta": [{"x": [1, None]}, {"x": None}]}
    rows = [row.value for row in read_parquet(io.BytesIO(written(values)), "a.parquet", None)]
    assert rows == [{key: column[number] for key, column in values.items()} for number in (0, 1)]


def test_only_what_is_wanted_is_read() -> None:
    data = written({"id": [1], "text": ["a"], "other": ["b"]})
    assert [row.value for row in read_parquet(io.BytesIO(data), "a", ("text", "id", "x"))] == [{"text": "a", "id": 1}]
    assert [row.value for row in read_parquet(io.BytesIO(data), "a", ("page", "id"))] == [
        {"id": 1, "text": "a", "other": "b"}
    ]


def test_compressed_once_more() -> None:
    data = gzip.compress(written({"text": ["a"]}))
    with gzip.open(io.BytesIO(data)) as file:
        assert [row.value for row in read_parquet(file, "a", None)] == [{"text": "a"}]


def test_two_columns_of_one_name_are_refused() -> None:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"]), file)
    with pytest.raises(DataError, match='two columns with the name "text"'):
        list(read_parquet(file, "a.parquet", ("text", "id")))


@pytest.mark.parametrize("data", [b"", b"PAR1", written({"text": ["a"]})[:-9], b"text\n"])
def test_damage_is_named(data: bytes) -> None:
    with pytest.raises(DataError, match="not a complete Parquet file") as caught:
        list(read_parquet(io.BytesIO(data), "a.parquet", None))
    assert (caught.value.code, caught.value.where) == ("bad_input", "a.parquet")
