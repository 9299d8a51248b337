"""CSV and TSV: the first line names the columns, and every cell is text."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from itertools import chain
from typing import IO

from neoxrun.errors import DataError
from neoxrun.input.charset import decode
from neoxrun.input.row import Row, check_columns
from neoxrun.terminal.words import counted


def read_table(file: IO[bytes], name: str, delimiter: str) -> Iterator[Row]:
    """The rows of a table, each with the line that it begins in; see ``read_rows``.

    Args:
        file: the table.
        name: of the input.
        delimiter: what is between two cells. Where it is a comma and the line of names has none, it is a semicolon or
            a tab, if that line has one.
    """
    csv.field_size_limit(sys.maxsize)  # a cell may be a long text
    lines = _lines(file, name)
    first = next(lines, "")
    if delimiter == "," and "," not in first:
        delimiter = next((other for other in (";", "\t") if other in first), ",")
    rows = csv.reader(chain([first] if first else [], lines), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    begin = 1
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as error:
            why = "a carriage return without a line feed" if "new-line" in str(error) else error
            raise DataError(
                f"this row is not {'TSV' if delimiter == chr(9) else 'CSV'}: {why}",
                code="bad_input",
                where=f"{name}:{begin}",
                hint='A cell with a quotation mark, a separator or a line end is quoted: "Why ""neox""?".',
            ) from None
        if cells is None:
            return
        if names is None:
            names = [cell.strip() for cell in cells]
            check_columns(names, f"{name}:1")
        elif cells:
            if len(cells) != len(names):
                raise DataError(
                    f"this row has {counted(len(cells), 'cell')}, and the first line has "
                    f"{counted(len(names), 'column name')}",
                    code="bad_input",
                    where=f"{name}:{begin}",
                    hint="The first line names the columns. A cell that has the separator in it is quoted.",
                )
            yield Row(dict(zip(names, cells, strict=True)), name, begin, cells=True)
        begin = rows.line_num + 1


def _lines(file: IO[bytes], name: str) -> Iterator[str]:
    offset = 0
    for number, data in enumerate(file, start=1):
        yield decode(data, name, line=number, offset=offset)
        offset += len(data)
