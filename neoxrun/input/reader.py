"""The rows of an input, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neoxrun.input.columns import read_parquet
from neoxrun.input.json_rows import TEXT_ROW, read_json, read_json_lines
from neoxrun.input.row import Row
from neoxrun.input.source import Source
from neoxrun.input.table import read_table
from neoxrun.input.text import read_text


def read_rows(source: Source, columns: Sequence[str] | None = None, example: str = TEXT_ROW) -> Iterator[Row]:
    """The rows in their order.

    Memory holds one of them, a few of Parquet, or a block of a text; all of them of JSON that is one value.

    Args:
        source: the input.
        columns: those of a Parquet file that are wanted, the one that it must have first; None: all.
        example: a row of JSON as it should be, for messages.

    Raises:
        DataError: the input cannot be read, is not of its format, or is not UTF-8.
    """
    with source.open() as file:
        match source.format:
            case "txt":
                yield from read_text(file, source.name, source.end)
            case "jsonl":
                yield from read_json_lines(file, source.name, example)
            case "json":
                yield from read_json(file, source.name, example)
            case "csv":
                yield from read_table(file, source.name, ",")
            case "tsv":
                yield from read_table(file, source.name, "\t")
            case "parquet":
                yield from read_parquet(file, source.name, columns)
