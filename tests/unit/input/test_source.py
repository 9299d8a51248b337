"""Inputs are opened: files, pipes and stdin, in the format that they have or that is asked for."""

from __future__ import annotations

import gzip
import io
import logging
import os
import sys
import threading
from pathlib import Path

import pytest

from neoxrun.errors import DataError, UsageError
from neoxrun.input.source import Source, open_source


def content(source: Source) -> bytes:
    with source.open() as file:
        return file.read()


def test_a_file_is_opened_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n'))
    source = open_source(str(path), end="\n")
    assert (source.format, source.path, source.data) == ("jsonl", path, b"")
    assert content(source) == content(source) == b'{"a": 1}\n'


def test_a_pipe_and_stdin_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(gzip.compress(b'{"a": 1}\n'),))
    writer.start()
    source = open_source(str(pipe), end="\n")
    writer.join()
    assert (source.format, source.path, content(source)) == ("jsonl", None, b'{"a": 1}\n')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n")))
    source = open_source("-", end="\n")
    assert (source.name, source.format, content(source)) == ("standard input", "txt", b"a\n")


def test_the_format_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text('{"a": 1}\n')
    assert open_source(str(path), end="\n", wanted="json").format == "json"
    assert open_source(str(path), end="\n", text=False).format == "jsonl"
    assert open_source(str(path), end="\n", wanted="csv", text=False).format == "csv"


@pytest.mark.parametrize(
    ("name", "wanted", "warns"), [("a.txt", None, True), ("a.txt", "txt", False), ("a.md", None, False)]
)
def test_text_that_looks_like_json_is_a_warning(
    name: str, wanted: None, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / name
    path.write_text('{"prompt": "a"}\n' if warns or wanted else "a {\n")
    with caplog.at_level(logging.WARNING, "neoxrun"):
        assert open_source(str(path), end="\n", wanted=wanted).format == "txt"
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} looks like JSON, and is read as text; --input-format jsonl reads it as JSON"
    ] * warns


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        open_source("", end="\n")
    for name, code in (("missing", "missing_file"), (".", "unreadable_file"), ("x" * 300, "unreadable_file")):
        with pytest.raises(DataError) as caught:
            open_source(str(tmp_path / name), end="\n", missing="Look again.")
        assert caught.value.code == code
        assert (caught.value.hint == "Look again.") == (code == "missing_file")
    wide = tmp_path / "a.csv"
    wide.write_text("prompt\na\n", encoding="utf-16")
    with pytest.raises(DataError, match="UTF-16") as caught:
        open_source(str(wide), end="\n")
    assert caught.value.code == "not_text"
