"""Phrases that messages share: sizes, counts, lists, and text from elsewhere."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence

from neoxrun.errors import DataError

_NAMED = 5  # names that a message lists before it counts the rest


def human_bytes(count: int) -> str:
    """``20.6 GB`` (10**9 bytes), or below that ``339 MB``, ``12 kB`` and ``5 B``."""
    if count >= 10**9:
        return f"{count / 1e9:.1f} GB"
    if count >= 10**6:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e3:.0f} kB" if count >= 10**3 else f"{count} B"


def counted(count: int, noun: str) -> str:
    """``1 GPU``, ``2 GPUs``, ``1 copy``, ``2 copies``."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def listing(names: Collection[object]) -> str:
    """The first few of ``names``, and how many more there are."""
    shown = ", ".join(str(name) for name in list(names)[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def did_you_mean(name: str, names: Iterable[str], most: int = 3, alike: float = 0.6) -> str:
    """A hint for a mistyped name, ``Did you mean lambada or piqa?``; empty if no known name resembles it.

    Args:
        name: what was typed.
        names: the names that are known.
        most: how many of them to suggest: the most similar, or else the shortest that contain what was typed.
        alike: how alike they have to be, from 0 to 1, as difflib measures it.
    """
    known = {candidate.casefold(): candidate for candidate in names}
    word = name.casefold()
    close = difflib.get_close_matches(word, known, most, alike)
    if not close and len(word) > 2:
        close = sorted((candidate for candidate in known if word in candidate), key=lambda text: (len(text), text))
    if not close:
        return ""
    *others, last = [printable(known[match]) for match in close[:most]]
    return f"Did you mean {', '.join(others)} or {last}?" if others else f"Did you mean {last}?"


def printable(text: str) -> str:
    """Text from elsewhere for a message: one short line, without characters that move a terminal's cursor."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:200])
    return shown + ("..." if len(text) > 200 else "")


def decode_utf8(data: bytes, name: str, *, where: str, hint: str | None = None) -> str:
    """The text of a file, without a byte-order mark.

    Args:
        data: all of the file.
        name: what a message calls it.
        where: the file, of which a message adds the line.
        hint: what to do if it is not UTF-8.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}",
            code="not_text",
            where=f"{where}:{line}",
            hint=hint,
        ) from None


def check_unicode(text: str, where: str | None = None) -> None:
    """Refuse text with half of a UTF-16 pair, which no tokenizer and no output file can hold.

    Raises:
        DataError: ``text`` has one; ``where`` is where it comes from.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the character {text[error.start]!r} is not valid Unicode",
            code="not_text",
            where=where,
        ) from None


def failure(error: Exception) -> str:
    """Why something could not be read, for a message that names the file: without an OS error's number and path."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def aligned_columns(rows: Sequence[Sequence[str]], *, left: int, last_left: bool = False) -> str:
    """Columns of equal width: the first ``left`` flush left, the others flush right, except the last if asked."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < left or (last_left and index == len(row) - 1) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
