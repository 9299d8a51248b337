"""Fixtures of the tests of evaluations."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from neoxrun.evaluation import local_data
from neoxrun.evaluation.catalog import Catalog
from support.task_data import STAND_INS, write_published_form


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing in this process asks the hub; tests of the network use processes of their own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "no cache"))


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def published(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with LAMBADA and PIQA as published, but short: neoxrun is told checksums and sizes of these."""
    folder = write_published_form(tmp_path_factory.mktemp("published"))
    known = []
    for entry in local_data._PUBLISHED:
        files = [(name, folder / entry.folder / name) for name, _ in entry.files]
        if all(path.is_file() for _, path in files):
            digests = tuple((name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in files)
            entry = replace(entry, files=digests, documents=STAND_INS)
        known.append(entry)
    monkeypatch.setattr(local_data, "_PUBLISHED", tuple(known))
    return folder
