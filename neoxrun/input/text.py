"""Text: a row is what is between two separators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final

from neoxrun.input.charset import decode
from neoxrun.input.row import Row

_BLOCK: Final = 2**20


def read_text(file: IO[bytes], name: str, end: str) -> Iterator[Row]:
    """The rows of a text, unchanged but for a carriage return at the end of a line; see ``read_rows``."""
    line, offset = 1, 0
    for piece in _pieces(file, end.encode()):
        text = decode(piece, name, line=line, offset=offset)
        yield Row({"text": text.removesuffix("\r") if end == "\n" else text}, name, line)
        line += piece.count(b"\n") + end.count("\n")
        offset += len(piece) + len(end.encode())


def _pieces(file: IO[bytes], end: bytes) -> Iterator[bytes]:
    """What is between two ``end``s; all of it where that is empty."""
    if not end:
        yield file.read()
        return
    rest = b""
    while block := file.read(max(_BLOCK, len(rest))):  # so that a long piece is not copied with each block
        *whole, rest = (rest + block).split(end)
        yield from whole
    yield rest
