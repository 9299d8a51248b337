"""How files are divided into documents, and what is refused, with its line."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from neoxrun.errors import DataError
from neoxrun.input.source import open_source
from neoxrun.scoring.documents import Document, DocumentSource, read_documents


def documents_of(path: Path, column: str = "text", end: str = "\n") -> list[Document]:
    return list(read_documents(DocumentSource(open_source(str(path), end=end), column)))


def read(path: Path, data: bytes, column: str = "text", end: str = "\n") -> list[Document]:
    path.write_bytes(data)
    return documents_of(path, column, end)


def test_text_is_divided_at_its_separators(tmp_path: Path) -> None:
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
    found = documents_of(path, "page")
    assert [one.text for one in found] == texts
    assert found[-1].id == 2499
    with pytest.raises(DataError, match='"text"') as caught:
        documents_of(path)
    assert caught.value.code == "missing_column"
    assert "page, other" in str(caught.value.hint)
    parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(DataError, match="not a text here but null") as caught:
        documents_of(path)
    assert caught.value.where == f"{path}, row 2"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a complete Parquet file"):
        documents_of(path)


WRONG = {
    "not JSON": (b'{"text": "a"}\n{"text": \n', "bad_input", 2),
    "not an object": (b'{"text": "a"}\n["a"]\n', "bad_input", 2),
    "a list": (b'{"text": ["a"]}\n', "bad_document", 1),
    "another key": (b'{"text": "a"}\n{"texts": "a"}\n', "missing_column", 2),
    "half a character": (b'{"text": "\\ud83d"}\n', "not_text", 1),
    "not UTF-8": (b'{"text": "a"}\n{"text": "\xef"}\n', "not_text", 2),
    "an id of another kind": (b'{"text": "a", "id": 1.5}\n', "bad_input", 1),
    "a number too large": (b'{"text": "a", "n": ' + b"1" * 5000 + b"}\n", "bad_input", 1),
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


def test_tables_have_their_columns_named(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", b'id,page\n007,"a\nb"\n7,c\n,d\n', column="page")
    assert [(one.id, one.text) for one in found] == [("007", "a\nb"), (7, "c"), (2, "d")]
    assert [one.where for one in found] == [f"{tmp_path / 'a.csv'}:{line}" for line in (2, 4, 5)]
    with pytest.raises(DataError, match='"text"') as caught:
        read(tmp_path / "a.csv", b"first line,of no header\na,b\n")
    assert caught.value.code == "missing_column"
    assert "first line, of no header. The first line names the columns." in str(caught.value.hint)


@pytest.mark.parametrize("column", ["text", "page"])
def test_a_column_is_found_whatever_else_there_is(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": [None, 4], column: ["a", "b"], "meta": [{"x": [1]}, None]}), path)
    assert [(one.id, one.text) for one in documents_of(path, column)] == [(0, "a"), (4, "b")]
