"""Parquet: a few rows at a time, of the columns that are wanted."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import IO, Final

from neoxrun.errors import DataError
from neoxrun.input.row import Row, check_columns
from neoxrun.terminal.words import printable

_ROWS: Final = 1000


def read_parquet(file: IO[bytes], name: str, wanted: Sequence[str] | None) -> Iterator[Row]:
    """The rows of a Parquet file; see ``read_rows``."""
    import pyarrow
    from pyarrow import parquet

    if not isinstance(file, io.BufferedReader | io.BytesIO) or not file.seekable():
        file = io.BytesIO(file.read())  # compressed once more; its end has to be read first
    number = 0
    try:
        opened = parquet.ParquetFile(file)
        names = opened.schema_arrow.names
        check_columns(names, name)
        known = wanted is not None and wanted[0] in names  # else who reads the first row says what there is
        columns = [column for column in wanted or () if column in names] if known else None
        for batch in opened.iter_batches(_ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield Row(row, name, number, "row")
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{name} is not a complete Parquet file: {printable(str(error))}",
            code="bad_input",
            where=name,
            hint="Copy or download it again.",
        ) from None


def count_parquet(file: IO[bytes]) -> int | None:
    """The rows of a Parquet file, from its end; 0 where it is not complete, None where it is another file."""
    if file.read(4) != b"PAR1":
        return None
    import pyarrow
    from pyarrow import parquet

    try:
        return int(parquet.ParquetFile(file).metadata.num_rows)
    except (pyarrow.ArrowException, OSError):
        return 0
