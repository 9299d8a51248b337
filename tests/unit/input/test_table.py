"""CSV and TSV as spreadsheets and pandas write them, and what is refused."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.errors import DataError
from neoxrun.input.table import read_table


def read(data: bytes, delimiter: str = ",") -> list[tuple[Any, int]]:
    return [(row.value, row.number) for row in read_table(io.BytesIO(data), "a.csv", delimiter)]


def test_rows_have_the_lines_they_begin_in() -> None:
    data = '\ufeffid, prompt\r\n1,"a ""b"",\r\nc"\r\n\r\n2,\u2028\r\n'.encode()
    assert read(data) == [({"id": "1", "prompt": 'a "b",\r\nc'}, 2), ({"id": "2", "prompt": "\u2028"}, 5)]
    assert read(b"") == read(b"prompt\n") == []
    assert read(b'prompt\n""\n') == [({"prompt": ""}, 2)]


def test_other_separators() -> None:
    expected = [({"prompt": "a,b", "id": "1"}, 2)]
    assert read(b"prompt\tid\na,b\t1\n", "\t") == expected
    assert read(b"prompt;id\na,b;1\n") == expected
    assert read(b"prompt\tid\na,b\t1\n") == expected


def test_a_column_name_may_have_a_line_end_in_it() -> None:
    data = b'"the\nprompt",id\n\na,1\n"b\nc",2\n'
    assert read(data) == [({"the\nprompt": "a", "id": "1"}, 4), ({"the\nprompt": "b\nc", "id": "2"}, 5)]
    assert read(b'id;"the\nprompt"\n1;a\n') == [({"id": "1", "the\nprompt": "a"}, 3)]


def test_a_cell_may_be_long() -> None:
    assert read(b"prompt\n" + b"x" * 1_000_000) == [({"prompt": "x" * 1_000_000}, 2)]


WRONG = {
    "too many cells": (b"prompt\na\nb,c\n", "2 cells", 3),
    "too few cells": (b"prompt,id\na,1\nb\n", "1 cell", 3),
    "a quotation without an end": (b'prompt,id\na,1\n"b,2\nc,3\n', "CSV", 3),
    "text after a quotation": (b'prompt,id\n"a" b,2\n', "CSV", 2),
    "a carriage return": (b"prompt\na\n\rb\n", "carriage return", 3),
    "a quotation without an end among the names": (b'prompt,"id\na,1\n', "CSV", 1),
    "a name twice": (b"prompt,prompt\na,b\n", "two columns", 1),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rows_are_named(case: str) -> None:
    data, message, line = WRONG[case]
    with pytest.raises(DataError, match=message) as caught:
        read(data)
    assert (caught.value.code, caught.value.where) == ("bad_input", f"a.csv:{line}")


@given(
    st.lists(st.tuples(st.text(), st.text()), max_size=5), st.sampled_from([",", "\t"]), st.sampled_from(["\r\n", "\n"])
)
def test_what_is_written_is_read(rows: list[tuple[str, str]], delimiter: str, end: str) -> None:
    file = io.StringIO(newline="")
    # Python's writer would leave a carriage return that is no part of its line end unquoted.
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("prompt", "label"), *rows])
    found = [row["prompt"] for row, _ in read(file.getvalue().encode(), delimiter)]
    assert found == [prompt for prompt, _ in rows]
