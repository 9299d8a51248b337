"""The documents of a file or of stdin, one after the other. No torch."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

from neoxrun.errors import DataError, UsageError
from neoxrun.terminal.words import check_unicode, did_you_mean, printable

Form = Literal["text", "jsonl", "parquet"]

_HEAD: Final = 4096
_BLOCK: Final = 2**20
_ROWS: Final = 1000
_NAMED: Final[dict[str, Form]] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "text"}


@dataclass(frozen=True)
class Document:
    """A text to be scored.

    Attributes:
        id: its own, or its index in the input.
        text: the text.
        where: file and line (or row), for messages.
    """

    id: str | int
    text: str
    where: str


@dataclass(frozen=True)
class Source:
    """Where documents come from.

    Attributes:
        name: of the input, for messages.
        path: the file; None: ``data`` is all of it.
        data: what came from a stream.
        form: how to read it.
        column: the key or column that holds the text; of ``jsonl`` and ``parquet``.
        end: what separates the documents of a text; empty: the whole text is one.
    """

    name: str
    path: Path | None
    data: bytes
    form: Form
    column: str = "text"
    end: str = "\n"

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The input, from its beginning.

        Raises:
            DataError: it cannot be read.
        """
        try:
            with io.BytesIO(self.data) if self.path is None else self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise unreadable(self.name, error) from None


def unreadable(name: str, error: OSError) -> DataError:
    """The error for an input that the system does not give."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"the file {name} does not exist", code="missing_file", hint="Check the path.")
    return DataError(f"the file {name} cannot be read: {error.strerror}", code="unreadable_file", where=name)


def open_source(name: str, column: str, end: str) -> Source:
    """The input of this name, of which a stream is read now; see ``Source``.

    Args:
        name: of a file; ``-`` is stdin.
        column, end: as in ``Source``.

    Raises:
        UsageError: the name is empty.
        DataError: it cannot be read or is compressed, or an option is not Unicode.
    """
    if not name:
        raise UsageError(
            "-i needs the name of a file", code="invalid_value", hint="Is a shell variable empty? Use - for stdin."
        )
    check_unicode(column)
    check_unicode(end)
    path, shown = Path(name), "standard input" if name == "-" else name
    try:
        if name != "-" and (path.is_file() or path.is_dir() or not path.exists()):
            with path.open("rb") as file:
                return Source(shown, path, b"", form_of(name, file.read(_HEAD)), column, end)
        data = sys.stdin.buffer.read() if name == "-" else path.read_bytes()
    except OSError as error:
        raise unreadable(shown, error) from None
    return Source(shown, None, data, form_of(shown, data[:_HEAD]), column, end)


def form_of(name: str, head: bytes) -> Form:
    """How to read an input: by its name, or else by how it begins.

    Args:
        name: of the file.
        head: its first bytes.

    Raises:
        DataError: it is compressed.
    """
    if head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")):
        raise DataError(
            f"{name} is compressed",
            code="not_text",
            where=name,
            hint="Decompress it first, or give its text to `neoxrun score -i -` through a pipe.",
        )
    if head.startswith(b"PAR1"):
        return "parquet"
    known = _NAMED.get(Path(name).suffix.lower())
    if known is not None:
        return known
    return "jsonl" if re.match(rb'(?:\xef\xbb\xbf)?\s*\{\s*"', head) else "text"


def read_documents(source: Source) -> Iterator[Document]:
    """The documents, in their order. Memory holds one of them, a few rows of Parquet or a block of the file.

    Raises:
        DataError: the input cannot be read, is not of its form or not Unicode, or has no such column.
    """
    readers = {"text": _from_text, "jsonl": _from_jsonl, "parquet": _from_parquet}
    return readers[source.form](source)


def _from_text(source: Source) -> Iterator[Document]:
    """What is between two separators, unchanged, but for a carriage return at the end of a line.

    What has nothing but white space is left out.
    """
    line, index = 1, 0
    with source.open() as file:
        for number, piece in enumerate(_pieces(file, source.end.encode())):
            text = _decoded(piece, source.name, line, first=number == 0)
            if source.end == "\n":
                text = text.removesuffix("\r")
            if text.strip():
                yield Document(index, text, f"{source.name}:{line}")
                index += 1
            line += piece.count(b"\n") + source.end.count("\n")


def _pieces(file: IO[bytes], end: bytes) -> Iterator[bytes]:
    """What is between two ``end``s."""
    if not end:
        yield file.read()
        return
    rest = b""
    while block := file.read(max(_BLOCK, len(rest))):  # so that a long piece is not copied with each block
        *whole, rest = (rest + block).split(end)
        yield from whole
    yield rest


def _decoded(data: bytes, name: str, line: int, *, first: bool) -> str:
    """UTF-8 from line ``line`` of a file, without a byte-order mark at its beginning."""
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 text: byte 0x{data[error.start]:02x}",
            code="not_text",
            where=f"{name}:{line + data[: error.start].count(10)}",
            hint="Convert it, for example with `iconv -f latin1 -t utf-8`.",
        ) from None


def _from_jsonl(source: Source) -> Iterator[Document]:
    index = 0
    with source.open() as file:
        for number, data in enumerate(file, start=1):  # JSON allows U+2028 and its like within a line
            line = _decoded(data, source.name, number, first=number == 1)
            if not line.strip():
                continue
            where = f"{source.name}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"this line is not JSON: {error.msg} (column {error.colno})",
                    code="bad_document",
                    where=where,
                    hint='A .jsonl file has one object a line, such as {"text": "import os"}.',
                ) from None
            except (ValueError, RecursionError):
                raise DataError(
                    "this line is nested too deeply, or has a number that is too large",
                    code="bad_document",
                    where=where,
                ) from None
            if not isinstance(row, dict):
                raise DataError("this line is not a JSON object", code="bad_document", where=where)
            if source.column not in row:
                raise _missing_column(source.column, list(row), where)
            yield _document(row, source.column, index, where)
            index += 1


def _from_parquet(source: Source) -> Iterator[Document]:
    import pyarrow
    from pyarrow import parquet

    index = 0
    with source.open() as file:
        try:
            opened = parquet.ParquetFile(file)
            names = opened.schema_arrow.names
            if source.column not in names:
                raise _missing_column(source.column, names, source.name)
            columns = [source.column, *(["id"] if "id" in names and source.column != "id" else [])]
            for batch in opened.iter_batches(_ROWS, columns=columns):
                for row in batch.to_pylist():
                    yield _document(row, source.column, index, f"{source.name}, row {index + 1}")
                    index += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(
                f"{source.name} is not a complete Parquet file: {printable(str(error))}",
                code="bad_document",
                where=source.name,
                hint="Copy or download it again.",
            ) from None


def _missing_column(column: str, names: list[str], where: str) -> DataError:
    known = ", ".join(printable(name) for name in names[:20])
    guess = did_you_mean(column, names)
    hint = f"{guess} Name it with --column." if guess else f"Name one of these with --column: {known}."
    return DataError(f'there is no "{printable(column)}" here', code="missing_column", where=where, hint=hint)


def _document(row: dict[str, Any], column: str, index: int, where: str) -> Document:
    text, identity = row[column], row.get("id", index)
    if not isinstance(text, str):
        raise DataError(
            f'"{printable(column)}" is not a text here but {printable(json.dumps(text, default=str))}',
            code="bad_document",
            where=where,
        )
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        raise DataError(
            f'"id" is a text or a whole number, not {printable(json.dumps(identity, default=str))}',
            code="bad_document",
            where=where,
        )
    check_unicode(text, where)
    check_unicode(str(identity), where)
    return Document(identity, text, where)
