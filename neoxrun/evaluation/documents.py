"""Files of documents: JSON lines, lines of text, and Parquet. Every error names the file and, if it can, the line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from neoxrun.errors import DataError
from neoxrun.terminal.words import check_unicode

Document = dict[str, Any]


class RawFile(NamedTuple):
    """A file and its bytes."""

    path: Path
    data: bytes


def read_raw(path: Path) -> RawFile:
    """Read a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return RawFile(path, path.read_bytes())
    except OSError as error:
        raise DataError(
            f"the data file {path} cannot be read: {error.strerror}",
            code="unreadable_file",
            where=str(path),
        ) from None


def text_lines(raw: RawFile) -> list[str]:
    """The lines of a UTF-8 file. Only a line feed ends one: JSON allows U+2028 and the like within a string.

    Raises:
        DataError: it is not UTF-8, or it is empty.
    """
    try:
        text = raw.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{raw.path.name} is not UTF-8 text: byte 0x{raw.data[error.start]:02x} at offset {error.start}",
            code="not_text",
            where=f"{raw.path}:{line}",
        ) from None
    lines = text.removesuffix("\n").split("\n")
    if not text.strip():
        raise DataError(
            f"{raw.path.name} is empty", code="bad_data", where=str(raw.path), hint="Remove it, or fetch it again."
        )
    return [line.removesuffix("\r") for line in lines]


def json_documents(raw: RawFile, fields: Sequence[str] = ()) -> list[Document]:
    """The documents of a file with one JSON object a line.

    Args:
        raw: the file.
        fields: keys that each object must have, with strings as values.

    Raises:
        DataError: a line is not a JSON object, lacks one of ``fields``, or has other keys than the first line.
    """
    documents: list[Document] = []
    for number, line in enumerate(text_lines(raw), start=1):
        where = f"{raw.path}:{number}"
        try:
            document = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"this line is not JSON: {error.msg} (column {error.colno})", code="bad_data", where=where
            ) from None
        if not isinstance(document, dict):
            raise DataError("this line is not a JSON object", code="bad_data", where=where)
        check_unicode(json.dumps(document, ensure_ascii=False), where)
        missing = [field for field in fields if not isinstance(document.get(field), str)]
        if missing:
            raise DataError(f'this line has no string under "{missing[0]}"', code="bad_data", where=where)
        if documents and document.keys() != documents[0].keys():
            odd = min(document.keys() ^ documents[0].keys())
            raise DataError(
                f'"{odd}" is in this line or in the first one, but not in both', code="bad_data", where=where
            )
        documents.append(document)
    return documents


def parquet_documents(raw: RawFile) -> list[Document]:
    """The rows of a Parquet file, the form in which the hub itself keeps most data sets.

    Raises:
        DataError: it is not a complete Parquet file, or has no rows.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        documents: list[Document] = parquet.read_table(pyarrow.BufferReader(raw.data)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{raw.path.name} is not a complete Parquet file: {error}",
            code="bad_data",
            where=str(raw.path),
            hint="Remove it and fetch it again.",
        ) from None
    if not documents:
        raise DataError(
            f"{raw.path.name} has no documents",
            code="bad_data",
            where=str(raw.path),
            hint="Remove it, or fetch it again.",
        )
    return documents
