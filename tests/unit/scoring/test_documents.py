"""How files are divided into documents, and what is refused, with its line."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from neoxrun.errors import DataError, UsageError
from neoxrun.scoring import documents
from neoxrun.scoring.documents import Document, form_of, open_source, read_documents


def read(path: Path, data: bytes, column: str = "text", end: str = "\n") -> list[Document]:
    path.write_bytes(data)
    return list(read_documents(open_source(str(path), column, end)))


@pytest.mark.parametrize("block", [1, 3, 2**20])
def test_text_is_divided_at_its_separators(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_BLOCK", block)
    path = tmp_path / "a.txt"
    text = "\ufeff one\r\n\n \t\ntwo \u2028 é\nthree".encode()
    found = read(path, text)
    assert [one.text for one in found] == [" one", "two \u2028 é", "three"]
    assert [one.where for one in found] == [f"{path}:{line}" for line in (1, 4, 5)]
    assert [one.id for one in found] == [0, 1, 2]
    assert [one.text for one in read(path, b"a\n\n\nb\n\nc\n", end="\n\n")] == ["a", "\nb", "c\n"]
    assert [one.text for one in read(path, b"a\r\nb\n", end="")] == ["a\r\nb\n"], "a whole file is left as it is"


def test_json_lines_have_ids_or_numbers(tmp_path: Path) -> None:
    data = '{"text": "a\\u2028b", "x": 1}\n\n{"text": "", "id": "q"}\n{"id": 7, "text": "\u2028"}'
    found = read(tmp_path / "a.jsonl", data.encode())
    assert [(one.id, one.text) for one in found] == [(0, "a\u2028b"), ("q", ""), (7, "\u2028")]
    assert found[1].where.endswith("a.jsonl:3")


def test_rows_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"text {n}" for n in range(2500)]  # several batches
    parquet.write_table(pyarrow.table({"page": texts, "other": list(range(2500))}), path)
    found = list(read_documents(open_source(str(path), "page", "\n")))
    assert [one.text for one in found] == texts
    assert found[-1].id == 2499
    with pytest.raises(DataError, match='"text"') as caught:
        list(read_documents(open_source(str(path), "text", "\n")))
    assert caught.value.code == "missing_column"
    assert "page, other" in str(caught.value.hint)
    parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(DataError, match="not a text here but null") as caught:
        list(read_documents(open_source(str(path), "text", "\n")))
    assert caught.value.where == f"{path}, row 2"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a complete Parquet file"):
        list(read_documents(open_source(str(path), "text", "\n")))


WRONG = {
    "not JSON": (b'{"text": "a"}\n{"text": \n', "bad_document", 2),
    "not an object": (b'{"text": "a"}\n["a"]\n', "bad_document", 2),
    "a list": (b'{"text": ["a"]}\n', "bad_document", 1),
    "another key": (b'{"text": "a"}\n{"texts": "a"}\n', "missing_column", 2),
    "half a character": (b'{"text": "\\ud83d"}\n', "not_text", 1),
    "not UTF-8": (b'{"text": "a"}\n{"text": "\xef"}\n', "not_text", 2),
    "an id of another kind": (b'{"text": "a", "id": 1.5}\n', "bad_document", 1),
    "a number too large": (b'{"text": "a", "n": ' + b"1" * 5000 + b"}\n", "bad_document", 1),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_lines_are_named(case: str, tmp_path: Path) -> None:
    data, code, line = WRONG[case]
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.jsonl", data)
    assert (caught.value.code, caught.value.where) == (code, f"{tmp_path / 'a.jsonl'}:{line}")


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0xff") as caught:
        read(tmp_path / "a.txt", b"a\nb\n\nc\xff", end="\n\n")
    assert caught.value.where == f"{tmp_path / 'a.txt'}:4"


def test_forms_are_known_by_name_or_beginning() -> None:
    assert form_of("a.jsonl", b"x") == "jsonl"
    assert form_of("a.TXT", b'{"text"') == "text"
    assert form_of("standard input", b'\xef\xbb\xbf {"text": 1}') == "jsonl"
    assert form_of("a.csv", b"{curly} text") == "text"
    assert form_of("a", b"PAR1....") == "parquet"
    with pytest.raises(DataError, match="compressed"):
        form_of("a.txt.gz", b"\x1f\x8b\x08")


def test_a_name_is_needed_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        open_source("", "text", "\n")
    with pytest.raises(DataError, match="does not exist"):
        open_source(str(tmp_path / "none.txt"), "text", "\n")
    with pytest.raises(DataError, match="Is a directory"):
        open_source(str(tmp_path), "text", "\n")
