"""Where a row is, its keys and its id."""

from __future__ import annotations

from typing import Any

import pytest

from neoxrun.errors import DataError
from neoxrun.input.row import Row


def test_lines_and_rows_are_named_differently() -> None:
    assert Row({}, "a.jsonl", 3).where == "a.jsonl:3"
    assert Row({}, "a.parquet", 3, "row").where == "a.parquet, row 3"


@pytest.mark.parametrize("value", [["a"], "a", None, 1])
def test_a_row_without_keys_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="this row is not a JSON object") as caught:
        _ = Row(value, "a.json", 2, "row").fields
    assert (caught.value.code, caught.value.where) == ("bad_input", "a.json, row 2")


@pytest.mark.parametrize(
    ("fields", "cells", "identity"),
    [
        ({}, False, 5),
        ({"id": None}, False, 5),
        ({"id": ""}, False, ""),
        ({"id": "7"}, False, "7"),
        ({"id": 7.0}, False, 7),
        ({"id": -(2**70)}, False, -(2**70)),
        ({}, True, 5),
        ({"id": ""}, True, 5),
        ({"id": "7"}, True, 7),
        ({"id": "-7"}, True, -7),
        ({"id": "0"}, True, 0),
        ({"id": "-0"}, True, "-0"),
        ({"id": "007"}, True, "007"),
        ({"id": "\u0667"}, True, "\u0667"),
        ({"id": "9" * 5000}, True, "9" * 5000),
    ],
)
def test_ids(fields: dict[str, Any], cells: bool, identity: str | int) -> None:
    found = Row(fields, "a", 1, cells=cells).identity(5)
    assert found == identity
    assert type(found) is type(identity)


@pytest.mark.parametrize("wrong", [1.5, True, [1], {"a": 1}])
def test_ids_that_are_none(wrong: Any) -> None:
    with pytest.raises(DataError, match='"id"') as caught:
        Row({"id": wrong}, "a", 1).identity(0)
    assert caught.value.code == "bad_input"
