"""What messages share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.errors import DataError
from neoxrun.terminal.words import aligned_columns, decode_utf8, did_you_mean, printable


@given(st.text())
def test_what_is_shown_moves_no_cursor(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) <= 10 * 200 + 3


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: not text.startswith("\ufeff")))
def test_text_is_decoded_without_a_byte_order_mark(text: str) -> None:
    assert decode_utf8(text.encode(), "a file", where="a") == text
    assert decode_utf8(text.encode("utf-8-sig"), "a file", where="a") == text


def test_where_a_file_stops_being_utf8() -> None:
    with pytest.raises(DataError) as caught:
        decode_utf8(b"first\nsecond \xe4", "a.txt", where="/folder/a.txt", hint="Convert it.")
    assert caught.value.message == "a.txt is not UTF-8 text: byte 0xe4 at offset 13"
    assert (caught.value.code, caught.value.where, caught.value.hint) == ("not_text", "/folder/a.txt:2", "Convert it.")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lamada", "Did you mean lambada or lambada_openai?"),
        ("PIQA2", "Did you mean PIQA?"),
        ("pythia-160", "Did you mean pythia-160m or pythia-1b?"),
        ("ambada_op", "Did you mean lambada_openai or lambada?"),
        ("wino", "Did you mean winogrande?"),  # contained, not similar
        ("xy", ""),
        ("", ""),
    ],
)
def test_names_that_may_have_been_meant(name: str, hint: str) -> None:
    known = ["PIQA", "lambada", "lambada_openai", "pythia-160m", "pythia-1b", "winogrande", "xy\x1b[2J_longer_still"]
    assert did_you_mean(name, known, 2) == hint


def test_a_suggested_name_moves_no_cursor() -> None:
    assert did_you_mean("a\x1b[2Jb", ["a\x1b[2Jbc"]).isprintable()


def test_columns_are_aligned() -> None:
    rows = [("task", "value", "verdict"), ("a", "0.25", "agrees"), ("long name", "10.5", "")]
    assert aligned_columns(rows, left=1) == "task       value  verdict\na           0.25   agrees\nlong name   10.5\n"
    assert aligned_columns(rows[1:], left=1, last_left=True) == "a          0.25  agrees\nlong name  10.5\n"
