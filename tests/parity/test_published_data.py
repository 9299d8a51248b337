"""LAMBADA and PIQA as their authors published them; everywhere else short stand-ins serve."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from neoxrun.download import models_file
from neoxrun.evaluation import data
from support.hub_access import without_hub
from support.task_data import read_objects


@pytest.fixture(autouse=True)
def no_hub() -> Iterator[None]:
    with without_hub():
        yield


def test_published_files(shared: Path) -> None:
    prepared = data.prepare_tasks(["lambada_openai", "piqa"], shared / "data")
    lambada, piqa = (prepared.task_dict["tasks"][name] for name in ("lambada_openai", "piqa"))

    assert len(lambada.eval_docs) == 5153
    assert list(lambada.eval_docs) == read_objects(shared / "data" / "lambada" / "lambada_test.jsonl")
    assert lambada.eval_docs[0]["text"].startswith("In my palm is a clear stone")
    assert lambada.doc_to_target(lambada.eval_docs[0]) == " signs"

    questions = read_objects(shared / "data" / "piqa" / "valid.jsonl")
    labels = (shared / "data" / "piqa" / "valid-labels.lst").read_text().split()
    assert len(piqa.eval_docs) == 1838
    assert list(piqa.eval_docs) == [
        question | {"label": int(label)} for question, label in zip(questions, labels, strict=True)
    ]
    splits = [split for source in prepared.sources.values() for split in source["splits"].values()]
    assert [file["published"] for split in splits for file in split["files"]] == [True] * 3


def test_task_data_is_known_to_the_byte(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    files = {file.name: file for task in models_file.load_catalog().tasks.values() for file in task.files}
    present = [name for name in files if (shared / "data" / name).exists()]
    assert len(present) == 3
    for name in present:
        content = (shared / "data" / name).read_bytes()
        assert (files[name].size, files[name].sha256) == (len(content), hashlib.sha256(content).hexdigest())
