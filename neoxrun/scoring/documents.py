"""The documents of an input, one after the other. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from neoxrun.errors import DataError
from neoxrun.input.reader import read_rows
from neoxrun.input.row import Row
from neoxrun.input.source import Source
from neoxrun.terminal.words import check_unicode, did_you_mean, printable


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
class DocumentSource:
    """Where documents come from.

    Attributes:
        rows: the input.
        column: the key or column that holds the text, where the input is not a text itself.
    """

    rows: Source
    column: str = "text"

    @property
    def name(self) -> str:
        """The input's, for messages."""
        return self.rows.name


def read_documents(source: DocumentSource) -> Iterator[Document]:
    """The documents, in their order. Memory holds what ``read_rows`` says.

    What has nothing but white space between two separators of a text is left out.

    Raises:
        DataError: the input cannot be read, is not of its format or not Unicode, or has no such column.
    """
    index = 0
    plain = source.rows.format == "txt"
    columns = (source.column, *(("id",) if source.column != "id" else ()))
    for row in read_rows(source.rows, columns):
        if plain and not row.fields["text"].strip():
            continue
        yield _document(row, "text" if plain else source.column, index)
        index += 1


def _document(row: Row, column: str, index: int) -> Document:
    fields, where = row.fields, row.where
    if column not in fields:
        raise _missing_column(column, row)
    text = fields[column]
    if not isinstance(text, str):
        raise DataError(
            f'"{printable(column)}" is not a text here but {printable(json.dumps(text, default=str))}',
            code="bad_document",
            where=where,
        )
    check_unicode(text, where)
    return Document(row.identity(index), text, where)


def _missing_column(column: str, row: Row) -> DataError:
    names = list(row.fields)
    known = ", ".join(printable(name) for name in names[:20])
    guess = did_you_mean(column, names)
    hint = f"{guess} Name it with --column." if guess else f"Name one of these with --column: {known}."
    if row.cells:
        hint += " The first line names the columns."
    return DataError(f'there is no "{printable(column)}" here', code="missing_column", where=row.where, hint=hint)
