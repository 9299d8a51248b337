"""Which outputs are accepted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neoxrun.errors import DataError, UsageError
from neoxrun.generation.lines import check_output, output_of


def test_names_of_stdout() -> None:
    assert [output_of(name) for name in ("-", "/dev/stdout", "/dev/fd/1")] == [None] * 3
    assert output_of("a.jsonl") == Path("a.jsonl")


def test_an_output_is_not_its_input(tmp_path: Path) -> None:
    given, link, other = tmp_path / "a.txt", tmp_path / "link", tmp_path / "b.txt"
    given.write_text("one\n")
    link.symlink_to(given)
    for output in (given, link):
        with pytest.raises(UsageError, match="is also the input"):
            check_output(output, str(given), None)
    check_output(other, str(given), None)
    check_output(given, None, None)
    check_output(given, str(other), None)
    assert given.read_text() == "one\n"
    assert not other.exists()


def test_only_some_need_a_regular_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_output(pipe, "-", None)
    with pytest.raises(UsageError, match="is not a regular file, which Parquet needs"):
        check_output(pipe, "-", "Parquet")
    check_output(tmp_path / "new", "-", "Parquet")
    with pytest.raises(DataError, match="cannot be written"):
        check_output(tmp_path / "none" / "new", "-", "Parquet")
