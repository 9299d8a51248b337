"""Text is divided at its separators, wherever the blocks that are read end."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.errors import DataError
from neoxrun.input import text
from neoxrun.input.text import read_text


@pytest.mark.parametrize("block", [1, 3, 2**20])
def test_rows_and_their_lines(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_BLOCK", block)
    data = "\ufeff one\r\n\ntwo \u2028 é\nthree".encode()
    rows = list(read_text(io.BytesIO(data), "a.txt", "\n"))
    assert [row.fields["text"] for row in rows] == [" one", "", "two \u2028 é", "three"]
    assert [row.where for row in rows] == [f"a.txt:{line}" for line in (1, 2, 3, 4)]
    data = b"a\r\n--\n\nb--"
    rows = list(read_text(io.BytesIO(data), "a.txt", "--"))
    assert [(row.value["text"], row.number) for row in rows] == [("a\r\n", 1), ("\n\nb", 2), ("", 4)]
    [whole] = read_text(io.BytesIO(data), "a.txt", "")
    assert whole.value == {"text": data.decode()}


@given(st.text(), st.text(min_size=1, max_size=3))
def test_rows_are_what_split_gives(content: str, end: str) -> None:
    content = content.replace("\ufeff", "").replace("\r", "")
    rows = read_text(io.BytesIO(content.encode()), "a", end)
    assert [row.value["text"] for row in rows] == content.split(end)


@pytest.mark.parametrize("block", [1, 2**20])
def test_a_wrong_byte_is_named_by_its_offset(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_BLOCK", block)
    with pytest.raises(DataError, match="0xe4 at offset 8") as caught:
        list(read_text(io.BytesIO(b"a\n==b\n==\xe4"), "a.txt", "=="))
    assert caught.value.where == "a.txt:3"
