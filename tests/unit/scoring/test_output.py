"""What of an earlier run's records counts, and the Parquet file that they become."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from pyarrow import parquet

from neoxrun.errors import DataError
from neoxrun.input.source import Source
from neoxrun.scoring.documents import DocumentSource
from neoxrun.scoring.output import finish_output, lines_file, scan_input

SOURCE = DocumentSource(Source("a.txt", None, b"one\ntwo\nthree\n", "txt"))


def record(number: int, text: str, **other: object) -> dict[str, object]:
    made: dict[str, object] = {"id": number, "text": text, "tokens": 2, "words": 1, "bytes": 3, "logprob": -1.5}
    return made | {"run": "r", "token_ids": [1, 2], "top_texts": [["a", "b"], ["c"]], **other}


def write(path: Path, *records: object, torn: str = "") -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records) + torn)
    return path


def test_records_of_the_first_documents_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", record(0, "one"), record(1, "two"), torn='{"id": 2, "text": "thr')
    scan = scan_input(SOURCE, path)
    assert (scan.documents, scan.size, scan.finished) == (3, 11, 2)
    assert path.read_bytes()[: scan.keep].count(b"\n") == 2
    assert (scan.totals.tokens, scan.totals.logprob) == (4, -3)
    scan.check_run("r")
    with pytest.raises(DataError, match="another model") as caught:
        scan.check_run("s")
    assert caught.value.code == "foreign_record"
    fresh = scan_input(SOURCE, None)
    assert (fresh.finished, fresh.keep, fresh.run) == (0, 0, None)
    assert scan_input(SOURCE, tmp_path / "none.jsonl").finished == 0


FOREIGN = {
    "another text": ([record(0, "one"), record(1, "other")], "", ":2"),
    "another id": ([record(1, "one")], "", ":1"),
    "another run between": ([record(0, "one"), record(1, "two", run="s")], "", ":1"),
    "too many": ([record(n, t) for n, t in enumerate(("one", "two", "three", "four"))], "", ":4"),
    "no record": ([{"id": 0, "text": "one"}], "", ":1"),
    "no JSON": ([], "a note\n", ":1"),
    "an unfinished note": ([record(0, "one")], "a note", ":2"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_other_files_are_refused(case: str, tmp_path: Path) -> None:
    records, torn, line = FOREIGN[case]
    path = write(tmp_path / "a.jsonl", *records, torn=torn)
    before = path.read_bytes()
    with pytest.raises(DataError) as caught:
        scan_input(SOURCE, path)
    assert caught.value.code == "foreign_record"
    assert str(caught.value.where).endswith(f"a.jsonl{line}")
    assert path.read_bytes() == before


def test_no_documents() -> None:
    with pytest.raises(DataError, match="no documents") as caught:
        scan_input(DocumentSource(Source("a.txt", None, b" \n\n", "txt")), None)
    assert caught.value.code == "no_documents"


@pytest.mark.parametrize("identity", [1, "b", 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**30])
def test_parquet_has_the_records(identity: int | str, tmp_path: Path) -> None:
    output = tmp_path / "a.parquet"
    lines = lines_file(output)
    assert lines is not None
    second = record(1, "two", token_ids=[], top_texts=[], bits=None) | {"id": identity}
    write(lines, record(0, "one", bits=1), second)
    finish_output(output)
    assert list(tmp_path.iterdir()) == [output]
    found = parquet.read_table(output).to_pylist()
    ids = [0, identity] if identity in (1, 2**63 - 1, -(2**63)) else ["0", str(identity)]
    assert found == [record(0, "one", bits=1.0) | {"id": ids[0]}, second | {"id": ids[1]}]
    finish_output(output)  # again, after a run that had nothing to do
    assert list(tmp_path.iterdir()) == [output]


def test_a_link_to_another_file_system_names_the_parquet_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path.parent != target.parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return move(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    output = here / "a.parquet"
    output.symlink_to(there / "b.parquet")
    write(here / "a.parquet.unfinished.jsonl", record(0, "one"))
    finish_output(output)
    assert output.is_symlink()
    assert [*here.iterdir(), *there.iterdir()] == [output, there / "b.parquet"]
    assert parquet.read_table(output).num_rows == 1


def test_records_that_parquet_cannot_hold_are_kept_as_lines(tmp_path: Path) -> None:
    output = tmp_path / "a.parquet"
    lines = write(tmp_path / "a.parquet.unfinished.jsonl", record(0, "one"), record(1, "two", token_ids=["many"]))
    with pytest.raises(DataError, match="the records cannot be turned into") as caught:
        finish_output(output)
    assert (caught.value.code, caught.value.where) == ("unwritable_file", str(lines))
    assert list(tmp_path.iterdir()) == [lines]
    write(lines, record(0, "one", tokens=2**70))
    with pytest.raises(DataError, match="the records cannot be turned into"):
        finish_output(output)
    assert list(tmp_path.iterdir()) == [lines]


def test_documents_may_share_an_id(tmp_path: Path) -> None:
    rows = DocumentSource(Source("a.jsonl", None, b'{"id": 7, "text": "one"}\n{"id": 7, "text": "two"}\n', "jsonl"))
    path = write(tmp_path / "a.jsonl", record(7, "one"))
    assert (scan_input(rows, path).finished, scan_input(rows, path).documents) == (1, 2)
    write(path, record(7, "one"), record(7, "two"))
    assert scan_input(rows, path).finished == 2


def test_a_finished_parquet_file_counts_and_does_not_grow(tmp_path: Path) -> None:
    output = tmp_path / "a.parquet"
    write(tmp_path / "a.parquet.unfinished.jsonl", record(0, "one"), record(1, "two"))
    finish_output(output)
    scan = scan_input(DocumentSource(Source("a.txt", None, b"one\ntwo\n", "txt")), output)
    assert (scan.finished, scan.documents, scan.totals.tokens) == (2, 2, 4)
    with pytest.raises(DataError, match="is complete, with 2 of the 3"):
        scan_input(SOURCE, output)
    output.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a complete Parquet"):
        scan_input(SOURCE, output)
