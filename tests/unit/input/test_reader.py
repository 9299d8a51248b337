"""The same rows in every format, compressed or not, are the same rows."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neoxrun.input.formats import Format
from neoxrun.input.reader import read_rows
from neoxrun.input.source import Source
from support.rows import WAYS, WRITERS

TEXT = st.text()
ROWS = st.lists(st.fixed_dictionaries({"prompt": TEXT, "id": TEXT, "own key": TEXT}), min_size=1, max_size=6)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=30)
@given(rows=ROWS)
def test_rows_come_back(form: Format, way: str, rows: list[dict[str, Any]]) -> None:
    source = Source("a", None, WAYS[way](WRITERS[form](rows)), form)
    assert [row.value for row in read_rows(source)] == rows


@given(prompts=st.lists(st.text(st.characters(exclude_characters="\n\r\ufeff", exclude_categories=["Cs"]), min_size=1)))
def test_lines_of_text_come_back(prompts: list[str]) -> None:
    source = Source("a", None, "".join(f"{prompt}\n" for prompt in prompts).encode(), "txt")
    found = [row.value["text"] for row in read_rows(source)]
    assert found == [*prompts, ""]


def test_a_large_file_is_not_held(tmp_path: Path) -> None:
    """Of 20 MB of rows, a few are in memory."""
    row = json.dumps({"prompt": "x" * 100_000}) + "\n"
    for name, opener in (("a.jsonl", open), ("a.jsonl.gz", gzip.open)):
        path = tmp_path / name
        with opener(path, "wt") as file:
            for _ in range(200):
                file.write(row)
        tracemalloc.start()
        count = sum(1 for _ in read_rows(Source(name, path, b"", "jsonl")))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 200
        assert peak < 5e6, f"{name}: {peak} bytes for 20 MB"
