"""Character sets that are not UTF-8 are named; bytes that are wrong, too."""

from __future__ import annotations

import pytest

from neoxrun.errors import DataError
from neoxrun.input.charset import decode, refuse_other_charset

TEXT = 'import os\nprint("hello")\n'


@pytest.mark.parametrize("charset", ["UTF-16", "UTF-32", "UTF-16LE", "UTF-16BE"])
def test_the_character_set_is_named_with_its_cure(charset: str) -> None:
    with pytest.raises(DataError, match=f"is {charset} text") as caught:
        refuse_other_charset("a.txt", TEXT.encode(charset))
    assert caught.value.code == "not_text"
    assert f"iconv -f {charset} -t utf-8" in str(caught.value.hint)


HEADS = (
    b"",
    b"a\0b, and more",
    b"a\0b\n",
    b"a\0b\0\n",
    TEXT.encode(),
    "é\u2028漢字".encode(),
    b"\xef\xbb\xbfa\0bcdefgh",
    bytes(4),
)


@pytest.mark.parametrize("head", HEADS)
def test_what_may_be_utf8_passes(head: bytes) -> None:
    refuse_other_charset("a.txt", head)


def test_bytes_are_decoded_or_named() -> None:
    assert decode(b"\xef\xbb\xbfa", "a") == "a"
    assert decode(b"\xef\xbb\xbfa", "a", line=2, offset=9) == "\ufeffa", "no byte-order mark but at the beginning"
    with pytest.raises(DataError, match="byte 0xe4 at offset 12") as caught:
        decode(b"a\nb\xe4", "a.txt", line=4, offset=9)
    assert (caught.value.code, caught.value.where) == ("not_text", "a.txt:5")
