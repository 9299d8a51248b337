"""An input that is opened: where its bytes are, and what they are."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from neoxrun.errors import DataError, UsageError
from neoxrun.input.charset import refuse_other_charset
from neoxrun.input.compression import decompressed
from neoxrun.input.formats import Format, format_of, json_format_of
from neoxrun.terminal.log import log
from neoxrun.terminal.words import check_unicode

_HEAD: Final = 2**18  # a whole first line, mostly


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        name: of the input, for messages.
        path: the file; None: ``data`` is all of it.
        data: what came from a stream.
        format: how to read it.
        end: what separates the rows of a text; empty: the whole text is one.
    """

    name: str
    path: Path | None
    data: bytes
    format: Format
    end: str = "\n"

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The input, decompressed, from its beginning.

        Raises:
            DataError: it cannot be read.
        """
        with _opened(self.name, self.path, self.data) as file:
            yield file


def open_source(
    name: str, *, end: str, wanted: Format | None = None, text: bool = True, missing: str = "Check the path."
) -> Source:
    """The input of this name, of which a stream is read now; see ``Source``.

    Args:
        name: of a file; ``-`` is stdin.
        end: as in ``Source``.
        wanted: the format, whatever the name and the content say.
        text: it may be a text; otherwise what seems to be one is read as JSON lines.
        missing: the hint where there is no such file.

    Raises:
        UsageError: the name is empty.
        DataError: it cannot be read, is not in UTF-8, or the separator is not Unicode.
    """
    if not name:
        raise UsageError(
            "-i needs the name of a file", code="invalid_value", hint="Is a shell variable empty? Use - for stdin."
        )
    check_unicode(end)
    shown = "standard input" if name == "-" else name
    file, data = Path(name), b""
    stream = name == "-"
    try:
        if stream:
            data = sys.stdin.buffer.read()
        elif file.exists() and not file.is_file() and not file.is_dir():  # a pipe
            stream, data = True, file.read_bytes()
    except OSError as error:
        raise _unreadable(shown, error, missing) from None
    path = None if stream else file
    with _opened(shown, path, data, missing) as content:
        head = content.read(_HEAD)
    form = wanted or format_of(name, head)
    if form != "parquet":
        refuse_other_charset(shown, head)
    if form == "txt" and not text:
        form = "jsonl"
    if form == "txt" and (nul := head.find(0)) >= 0:
        log.warning(f"{shown} has a NUL byte, at offset {nul}, which is taken as a part of the text")
    if form == "txt" and wanted is None and (looks := json_format_of(head)):
        log.warning(f"{shown} looks like JSON, and is read as text; --input-format {looks} reads it as JSON")
    return Source(shown, path, data, form, end)


@contextmanager
def _opened(name: str, path: Path | None, data: bytes, missing: str = "Check the path.") -> Iterator[IO[bytes]]:
    try:
        with io.BytesIO(data) if path is None else path.open("rb") as file, decompressed(file, name) as content:
            yield content
    except OSError as error:
        raise _unreadable(name, error, missing) from None


def _unreadable(name: str, error: OSError, missing: str) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"the file {name} does not exist", code="missing_file", hint=missing)
    return DataError(f"the file {name} cannot be read: {error.strerror}", code="unreadable_file", where=name)
