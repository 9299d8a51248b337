"""Inputs of every format through the installed command, and what it says of those that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neoxrun.input.formats import Format
from support.command import neoxrun, records_of
from support.rows import WAYS, WRITERS
from support.snapshots import Snapshot

WORK = ("generate", "demo", "--tp", "1", "--dtype", "fp32", "-q")
ROWS = [
    {"id": "a", "prompt": "import os", "maximum_tokens": 3, "label": "x"},
    {"id": "b", "prompt": 'print("a,\tb")\nclass', "maximum_tokens": 4, "label": "\u2028\u00e9"},
]


def answers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for record in records:
        del record["duration_seconds"]
    return sorted(records, key=lambda record: record["id"])


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    found = answers(neoxrun(*WORK, stdin=lines).check_success().records)  # a pipe is read without -i
    assert [(record["id"], record["context"], record["label"], record["length"]) for record in found] == [
        (row["id"], row["prompt"], row["label"], row["maximum_tokens"]) for row in ROWS
    ]
    return found


def test_a_nul_byte_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\0b\n")
    result = neoxrun(*WORK, "-i", "a.txt", "-o", "-", "--maximum-tokens", "1", cwd=tmp_path).check_success()
    assert result.err == "warning: a.txt has a NUL byte, at offset 1, which is taken as a part of the text\n"
    assert [record["context"] for record in result.records] == ["a\0b"]


@pytest.mark.parametrize(
    ("form", "way", "name"),
    [
        ("jsonl", "gzip", "a.ndjson.gz"),
        ("json", "plain", "a.json"),
        ("csv", "zstd", "a.csv.zst"),
        ("parquet", "plain", "a.parquet"),
    ],
)
def test_the_same_rows(form: Format, way: str, name: str, tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    (tmp_path / name).write_bytes(WAYS[way](WRITERS[form](ROWS)))
    neoxrun(*WORK, "-i", name, cwd=tmp_path).check_success()
    assert answers(records_of(tmp_path / f"{name}.output.jsonl")) == expected


def test_resuming_a_table(tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    (tmp_path / "a.csv").write_bytes(WRITERS["csv"](ROWS))
    neoxrun(*WORK, "-i", "a.csv", cwd=tmp_path).check_success()
    output = tmp_path / "a.csv.output.jsonl"
    kept = next(line for line in output.read_text().split("\n") if '"id": "b"' in line)
    output.write_text(kept + "\n")
    neoxrun(*WORK, "-i", "a.csv", "--resume", cwd=tmp_path).check_success()
    assert output.read_text().split("\n")[0] == kept
    assert answers(records_of(output)) == expected


def test_scores_of_every_format(tmp_path: Path) -> None:
    rows = [{"text": "import os", "id": "a"}, {"text": "class Queue:", "id": "b"}]
    found = []
    for form, way, name in (("tsv", "gzip", "a.tsv.gz"), ("parquet", "zstd", "b")):
        (tmp_path / name).write_bytes(WAYS[way](WRITERS[form](rows)))
        neoxrun("score", "demo", "-i", name, "--tp", "1", "-q", cwd=tmp_path).check_success()
        found.append(records_of(tmp_path / f"{name}.scores.jsonl"))
    assert [record["id"] for record in found[0]] == ["a", "b"]
    assert found[0] == found[1]
    piped = "".join(json.dumps(row) + "\n" for row in rows)
    done = neoxrun("score", "demo", "-o", "-", "--tp", "1", "-q", stdin=piped).check_success()
    assert done.records == found[0]


def test_text_that_looks_like_json(tmp_path: Path, snapshot: Snapshot) -> None:
    (tmp_path / "a.txt").write_text('{"prompt": "import os", "maximum_tokens": 2}\n')
    done = neoxrun(
        "generate", "demo", "-i", "a.txt", "-o", "-", "--maximum-tokens", "1", "--dtype", "fp32", cwd=tmp_path
    )
    snapshot(done.check_success(), output=False)
    assert done.records[0]["context"].startswith("{")
    forced = neoxrun(*WORK, "-i", "a.txt", "-o", "-", "--input-format", "jsonl", cwd=tmp_path).check_success()
    assert (forced.err, forced.records[0]["context"], forced.records[0]["length"]) == ("", "import os", 2)


WRONG: dict[str, tuple[str, bytes, str | None]] = {
    "UTF-16": ("a.csv", "id,prompt\n1,a\n".encode("utf-16"), "a.csv"),
    "UTF-16 without a mark": ("a.txt", "import os\n".encode("utf-16-le"), "a.txt"),
    "gzip cut short": ("a.jsonl.gz", WAYS["gzip"](WRITERS["jsonl"](ROWS))[:-20], "a.jsonl.gz"),
    "zstd cut short": ("a.csv.zst", WAYS["zstd"](WRITERS["csv"](ROWS))[:-20], "a.csv.zst"),
    "Parquet cut short": ("a.parquet", WRITERS["parquet"](ROWS)[:-20], "a.parquet"),
    "a workbook": ("a.xlsx", b"PK\x03\x04" + bytes(99), "a.xlsx"),
    "no line of names": ("a.csv", b"import os,x\nimport re,y\n", "a.csv:2"),
    "too many cells": ("a.csv", b"prompt,label\nimport os,x\nimport re, sys,y\n", "a.csv:3"),
    "array cut short": ("a.json", b'[\n {"prompt": "a"},\n', "a.json:3"),
    "null": ("a.parquet", WRITERS["parquet"]([{"prompt": "a"}, {"prompt": None}]), "a.parquet, row 2"),
    "an id twice": ("a.tsv", b"id\tprompt\n7\ta\n7\tb\n", "a.tsv:3"),
    "another tool's parameter": ("a.jsonl", b'{"prompt": "a", "max_tokens": 5}\n', "a.jsonl:1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read(case: str, tmp_path: Path, snapshot: Snapshot) -> None:
    name, data, where = WRONG[case]
    (tmp_path / name).write_bytes(data)
    snapshot(neoxrun("generate", "demo", "-i", name, cwd=tmp_path).check_error(4, where=where))
    assert [path.name for path in tmp_path.iterdir()] == [name]


MISPLACED = {"a file": ("demo", "a.jsonl"), "a text": ("demo", "import os"), "a word": ("demo", "import")}


@pytest.mark.parametrize("case", MISPLACED)
def test_inputs_among_the_configurations(case: str, tmp_path: Path, snapshot: Snapshot) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    snapshot(neoxrun("generate", *MISPLACED[case], cwd=tmp_path).check_error(2))


def test_strict_keys(tmp_path: Path, snapshot: Snapshot) -> None:
    (tmp_path / "a.csv").write_bytes(WRITERS["csv"](ROWS))
    snapshot(neoxrun("generate", "demo", "-i", "a.csv", "--strict-keys", cwd=tmp_path).check_error(4, '"label"'))
