"""A format is known by the name of the file, or else by how it begins."""

from __future__ import annotations

import pytest

from neoxrun.input.formats import Format, format_of, json_format_of

NAMES: dict[tuple[str, bytes], Format] = {
    ("a.jsonl", b"x"): "jsonl",
    ("a.NDJSON", b"x"): "jsonl",
    ("a.TXT", b'{"text": 1}'): "txt",
    ("a.csv", b"{curly} text"): "csv",
    ("a.tsv.gz", b"x"): "tsv",
    ("a.b.jsonl.zst", b"x"): "jsonl",
    ("a.parquet", b"x"): "parquet",
    ("a.txt", b"PAR1...."): "parquet",
    ("a.json", b'[{"prompt": "a"}]'): "json",
    ("a.json", b'{"prompt": "a"}\n{"prompt": "b"}\n'): "jsonl",
    ("a.json", b"x"): "json",
    (".gz", b"x"): "txt",
    ("prompts", b"import os\n"): "txt",
    ("-", b'\xef\xbb\xbf {"text": 1}'): "jsonl",
    ("-", b'id,"prompt"\r\n1,a'): "csv",
    ("-", b"prompt\tlabel\na\tb"): "tsv",
    ("-", b"prompt\nimport os"): "txt",
    ("-", b"Explain the text, please\nWhat"): "txt",
    ("-", b"context,,b\n"): "txt",
    ("-", b",prompt\n0,a\n"): "csv",
    ("-", b"\xff,prompt\n"): "csv",
    ("a.md", b"[1] a footnote"): "txt",
    ("a.py", b"x = {'a': 1}"): "txt",
}


@pytest.mark.parametrize(("name", "head"), NAMES)
def test_name_and_content(name: str, head: bytes) -> None:
    assert format_of(name, head) == NAMES[name, head]


JSON: dict[bytes, Format | None] = {
    b'{"a": 1}': "jsonl",
    b'{"a": 1}\n': "jsonl",
    b'\n\n{ "a": 1}\n{"a": 2}': "jsonl",
    b'{"a": "' + b"x" * 4096: "jsonl",  # the rest of a long line is not known
    b'{"a":\n 1}': "json",
    b'{"a": 1\n': "json",
    b'[{"a": 1},\n {"a": 2}]': "json",
    b'[\n  {"a": 1}\n]': "json",
    b'[{"a": 1}]\n \n': "json",
    b'[{"a": 1}]\n[{"a": 2}]\n': "jsonl",
    b'[[{"a": 1}]]': "json",
    b"[INST] hello [/INST]": None,
    b'["a", "b"]': None,
    b"{x}": None,
    b"": None,
}


@pytest.mark.parametrize("head", JSON)
def test_kinds_of_json(head: bytes) -> None:
    assert json_format_of(head) == JSON[head]
