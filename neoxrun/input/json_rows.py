"""JSON: lines with a value each, which are read one by one, or one value, which is read whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any, Final

from neoxrun.errors import DataError
from neoxrun.input.charset import decode
from neoxrun.input.row import Row

TEXT_ROW: Final = '{"text": "import os"}'
"""A row of most inputs."""


def read_json_lines(file: IO[bytes], name: str, example: str = TEXT_ROW) -> Iterator[Row]:
    """The values of the lines that are not empty; see ``read_rows``."""
    hint = f"JSON lines have one object a line, such as {example}; an array is named .json, plain text .txt."
    offset = 0
    for number, data in enumerate(file, start=1):  # only a line feed ends a line: JSON allows U+2028 and its like
        line = decode(data, name, line=number, offset=offset)
        offset += len(data)
        if line.strip():
            yield Row(_parsed(line.rstrip("\r\n"), name, number, hint), name, number)


def read_json(file: IO[bytes], name: str, example: str = TEXT_ROW) -> Iterator[Row]:
    """The elements of an array, or the one object; see ``read_rows``."""
    hint = f"JSON is an array of objects, such as [{example}]; lines are named .jsonl, plain text .txt."
    text = decode(file.read(), name)
    if not text.strip():
        return
    value = _parsed(text, name, None, hint)
    rows = value if isinstance(value, list) and not _is_conversation(value) else [value]
    for number, row in enumerate(rows, start=1):
        yield Row(row, name, number, "row")


def _is_conversation(value: list[Any]) -> bool:
    """Whether a list is one of messages, which is a row, and not one of rows."""
    return bool(value) and isinstance(value[0], dict) and "role" in value[0]


def _parsed(text: str, name: str, line: int | None, hint: str) -> Any:
    """The value of a line, or of the whole text."""
    what = "this file" if line is None else "this line"
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{what} is not JSON: {error.msg} (column {error.colno})",
            code="bad_input",
            where=f"{name}:{line or error.lineno}",
            hint=hint,
        ) from None
    except (ValueError, RecursionError):
        raise DataError(
            f"{what} is nested too deeply, or has a number that is too large",
            code="bad_input",
            where=f"{name}:{line or 1}",
        ) from None
