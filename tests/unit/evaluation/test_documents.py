"""Files of documents, and mistakes in them that are named with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.errors import DataError
from neoxrun.evaluation.documents import json_documents, read_raw, text_lines


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\u2028more\r\ntwo\n".encode())
    assert text_lines(read_raw(path)) == ["one\u2028more", "two"]


def test_a_field_that_a_document_must_have(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"goal": "a"}\n{"goal": 1}\n', encoding="utf-8")
    assert json_documents(read_raw(path)) == [{"goal": "a"}, {"goal": 1}]
    with pytest.raises(DataError, match='no string under "goal"') as caught:
        json_documents(read_raw(path), ("goal",))
    assert caught.value.where == f"{path}:2"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_raw(tmp_path / "none")
    assert caught.value.code == "unreadable_file"
    assert caught.value.where == str(tmp_path / "none")
