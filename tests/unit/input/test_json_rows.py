"""Lines of JSON, and JSON that is one value."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from neoxrun.errors import DataError
from neoxrun.input.json_rows import read_json, read_json_lines
from neoxrun.input.row import Row


def test_lines_keep_their_numbers() -> None:
    data = '\ufeff{"a": "x\u2028y"}\r\n\n \n["b"]\n3'.encode()
    rows = list(read_json_lines(io.BytesIO(data), "a.jsonl"))
    assert [(row.value, row.number) for row in rows] == [({"a": "x\u2028y"}, 1), (["b"], 4), (3, 5)]


def test_lines_are_read_as_they_are_asked_for() -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            line = b'{"a": 1}\n' * (len(buffer) // 9)
            buffer[: len(line)] = line
            return len(line)

    rows: Iterator[Row] = read_json_lines(io.BufferedReader(Endless()), "a.jsonl")
    assert [next(rows).number for _ in range(3)] == [1, 2, 3]


def test_one_value_is_an_array_an_object_or_a_conversation() -> None:
    def rows_of(value: object) -> list[object]:
        rows = list(read_json(io.BytesIO(json.dumps(value, indent=1).encode()), "a.json"))
        assert [row.where for row in rows] == [f"a.json, row {number + 1}" for number in range(len(rows))]
        return [row.value for row in rows]

    chat = [{"role": "user", "content": "a"}]
    assert rows_of([{"a": 1}, {"a": 2}]) == [{"a": 1}, {"a": 2}]
    assert rows_of({"a": 1}) == [{"a": 1}]
    assert rows_of([]) == []
    assert rows_of(chat) == [chat]
    assert rows_of([chat, chat]) == [chat, chat]
    assert list(read_json(io.BytesIO(b" \n"), "a.json")) == []


def test_mistakes_have_their_line() -> None:
    def mistake(data: bytes, *, lines: bool) -> DataError:
        with pytest.raises(DataError) as caught:
            list((read_json_lines if lines else read_json)(io.BytesIO(data), "a"))
        assert caught.value.code == "bad_input"
        return caught.value

    assert mistake(b'{"a": 1}\n{"a":\n', lines=True).where == "a:2"
    assert mistake(b'{"a": 1}\n' + b"[" * 200_000, lines=True).where == "a:2"
    assert "(column 6)" in mistake(b'{"a":\r\n', lines=True).message
    cut = mistake(b'[\n{"a": 1},\n{"a": ', lines=False)
    assert (cut.where, "this file is not JSON" in cut.message) == ("a:3", True)
    assert mistake(b"[" * 200_000, lines=False).where == "a:1"
    assert "an array is named .json" in str(mistake(b"[\n", lines=True).hint)
