"""Answers as text on stdout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from neoxrun.generation.plain_text import TextWriter
from neoxrun.generation.records import Record


def record(text: str | None, sample: int | None = None) -> Record:
    return Record(0, sample, "a", text, 1, False, "length", None, None, 0.5)


@pytest.fixture
def stdout(tmp_path: Path) -> Iterator[IO[str]]:
    with (tmp_path / "stdout").open("w+", encoding="utf-8") as file:
        yield file


def written(stdout: IO[str]) -> str:
    return Path(stdout.name).read_text(encoding="utf-8")


def test_a_single_answer_comes_in_pieces(stdout: IO[str]) -> None:
    writer = TextWriter(stdout, 1)
    assert writer.streams
    for piece in ("naïve", "", " ☕"):
        writer.show(piece)
    assert written(stdout) == "naïve ☕"
    writer.write(record("naïve ☕"))
    writer.close()
    assert written(stdout) == "naïve ☕\n"


def test_what_was_not_shown_comes_at_the_end(stdout: IO[str]) -> None:
    """Another replica has answered."""
    writer = TextWriter(stdout, 1)
    writer.write(record("import os"))
    writer.close()
    assert written(stdout) == "import os\n"


def test_an_empty_answer_is_an_empty_line_and_an_error_is_nothing(stdout: IO[str]) -> None:
    writer = TextWriter(stdout, 1)
    writer.write(record(None))
    assert written(stdout) == ""
    writer.write(record(""))
    writer.close()
    assert written(stdout) == "\n"


def test_what_follows_an_answer_that_was_cut_short_begins_a_line(stdout: IO[str]) -> None:
    writer = TextWriter(stdout, 1)
    writer.show("import")
    writer.close()
    assert written(stdout) == "import\n"


def test_several_answers_have_their_numbers(stdout: IO[str]) -> None:
    writer = TextWriter(stdout, 3)
    assert not writer.streams
    writer.write(record("c", 2))
    writer.write(record(None, 1))
    writer.write(record("a", 0))
    writer.close()
    assert written(stdout) == "--- 3 of 3 ---\nc\n--- 1 of 3 ---\na\n"
