"""UTF-8, and how other character sets are recognised: by a byte-order mark or by zero bytes, nothing cleverer."""

from __future__ import annotations

import codecs
from typing import Final

from neoxrun.errors import DataError

_MARKS: Final = (  # those of UTF-32 first: that of UTF-16 is how one of them begins
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def refuse_other_charset(name: str, head: bytes) -> None:
    """Refuse a text whose first bytes are those of UTF-16 or UTF-32.

    Raises:
        DataError: they are; the hint has the command that converts it.
    """
    charset = next((charset for mark, charset in _MARKS if head.startswith(mark)), None) or _by_zeros(head)
    if charset is not None:
        raise DataError(
            f"{name} is {charset} text, not UTF-8",
            code="not_text",
            where=name,
            hint=f"Convert it, for example with `iconv -f {charset} -t utf-8`.",
        )


def _by_zeros(head: bytes) -> str | None:
    """UTF-16 without a mark: in most languages every other byte of most text is zero.

    Not of a text with a zero byte in it, as ``find -print0`` writes.
    """
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(head) % 2 or min(even, odd) > 0 or max(even, odd) * 4 <= len(head):
        return None
    return "UTF-16LE" if odd > even else "UTF-16BE" if even > odd else None


def decode(data: bytes, name: str, *, line: int = 1, offset: int = 0) -> str:
    """The text of a part of a file, without a byte-order mark where the part is the file's beginning.

    Args:
        data: the part.
        name: of the input, for messages.
        line, offset: where the part begins in the input.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8" if offset else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {offset + error.start}",
            code="not_text",
            where=f"{name}:{line + data[: error.start].count(10)}",
            hint="Convert it, for example with `iconv -f latin1 -t utf-8`.",
        ) from None
