"""Which format a file has: by its name, or else by how it begins."""

from __future__ import annotations

import json
import re
from pathlib import PurePath
from typing import Final, Literal, get_args

from neoxrun.input.compression import ENDINGS

Format = Literal["txt", "jsonl", "json", "csv", "tsv", "parquet"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

TEXT_KEYS: Final = ("prompt", "context", "text", "messages")
"""Keys under which a row has its text, in one command or the other; a table is known by them."""

_NAMED: Final[dict[str, Format]] = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_OBJECT: Final = re.compile(rb'\{\s*"')
_ARRAY: Final = re.compile(rb'\[\s*(\{\s*"|\[\s*\{\s*")')


def format_of(name: str, head: bytes) -> Format:
    """The format of an input.

    Args:
        name: of the file.
        head: its first bytes, decompressed.
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    endings = [ending.lower() for ending in PurePath(name).suffixes]
    if endings and endings[-1] in ENDINGS:
        endings.pop()
    ending = endings[-1] if endings else ""
    return _NAMED.get(ending) or json_format_of(head) or ("json" if ending == ".json" else _table_of(head)) or "txt"


def json_format_of(head: bytes) -> Format | None:
    """Whether a file that begins like this is JSON lines or one JSON value; None if neither.

    It is JSON lines where the first line is a whole value, and more follow or that value is an object.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    is_object = _OBJECT.match(text) is not None
    if not is_object and not _ARRAY.match(text):
        return None
    line, newline, more = text.partition(b"\n")
    if not newline:
        return "jsonl" if is_object else "json"
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return "json"
    return "jsonl" if is_object or more.strip() else "json"


def _table_of(head: bytes) -> Format | None:
    """The table whose line of column names this is."""
    line = head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].rstrip(b"\r").decode(errors="replace")
    for delimiter, table in ((",", "csv"), ("\t", "tsv")):
        names = [name.removeprefix('"').removesuffix('"') for name in line.split(delimiter)]
        # The first may be empty: pandas leaves the column of its index without a name.
        if len(names) > 1 and all(names[1:]) and not set(names).isdisjoint(TEXT_KEYS):
            return table  # type: ignore[return-value]
    return None
