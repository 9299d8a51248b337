"""Fixtures of the tests of evaluations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neoxrun.evaluation import published_data
from neoxrun.evaluation.catalog import TaskCatalog
from support.hub_access import without_hub
from support.task_data import STAND_INS, write_published_form


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing in this process asks the hub; tests of the network use processes of their own."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "no cache"))
    with without_hub():
        yield


@pytest.fixture(scope="session")
def catalog() -> TaskCatalog:
    return TaskCatalog()


@pytest.fixture
def published(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with LAMBADA and PIQA as published, but short: neoxrun is told checksums and sizes of these."""
    folder = write_published_form(tmp_path_factory.mktemp("published"))
    paths = [path for path in folder.rglob("*") if path.is_file()]
    digests = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    known = tuple(
        replace(entry, documents=STAND_INS) if f"{entry.folder}/{entry.files[0]}" in digests else entry
        for entry in published_data._PUBLISHED
    )
    monkeypatch.setattr(published_data, "_PUBLISHED", known)
    monkeypatch.setattr(published_data, "_shipped_checksums", lambda: digests)
    return folder
