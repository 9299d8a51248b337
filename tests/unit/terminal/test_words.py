"""What messages share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neoxrun.terminal.words import printable


@given(st.text())
def test_what_is_shown_moves_no_cursor(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) <= 10 * 200 + 3
