"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from neoxrun.download import models_file
from support.download_command import weights
from support.faulty_server import FaultyServer
from support.paths import DEMO


@pytest.fixture(scope="session")
def tree_20b() -> dict[str, bytes]:
    """95 small files with the names of the slim weights."""
    names = [file.name for file in models_file.load_catalog().models["20B"].files]
    tokenizer = (DEMO / "tokenizer.json").read_bytes()
    return {name: weights(at) if name.endswith(".pt") else tokenizer for at, name in enumerate(names)}


@pytest.fixture
def demo_server() -> Iterator[FaultyServer]:
    """The demo model, on a web server with a listing."""
    files = {path.relative_to(DEMO).as_posix(): path.read_bytes() for path in DEMO.rglob("*") if path.is_file()}
    with FaultyServer(files) as server:
        yield server


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder that commands of test_usage.py and test_inputs.py run in, with the files that their tables name."""
    contents: dict[str, str | bytes] = {
        "broken.yml": '{"num_layers": 6,\n "hidden_size": ]\n}\n',
        "unknown.yml": "# a comment\nnum_layer: 6\n",
        "alibi.yml": "pos_emb: alibi\n",
        "empty.txt": "",
        "blank.txt": "\n  \n\t\n",
        "latin1.txt": b"caf\xc3\xa9\nna\xefve\n",
        "good.txt": "import os\n",
        "cut.jsonl": '{"prompt": "a"}\n{"prompt": "b"\n',
        "list.jsonl": '["a"]\n',
        "wordless.jsonl": '{"id": 7}\n',
        "both.jsonl": '{"prompt": "a", "context": "b"}\n',
        "misspelt.jsonl": '{"prompt": "a", "temprature": 1}\n',
        "cold.jsonl": '{"prompt": "a"}\n\n{"prompt": "b", "temperature": -1}\n',
        "twice.jsonl": '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}\n',
        "none.jsonl": '{"prompt": "a", "n": 0}\n',
        "half.jsonl": '{"prompt": "\\ud800"}\n',
        "many.jsonl": '{"prompt": "a"}\n{"prompt": "b", "n": 99999999999}\n',
        "foreign.jsonl": '{"hello": 1}\n',
        "other.jsonl": '{"id": 0, "context": "something else", "text": ""}\n',
        "page.json": "<!DOCTYPE html><html><body>404</body></html>",
        "cut.json": '{"model": {"vocab": {"a"',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "readme").touch()
    return tmp_path
