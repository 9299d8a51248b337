"""Fixtures of the tests of evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.evaluation.catalog import TaskCatalog


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing in this process asks the hub; tests of the network use processes of their own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "no cache"))


@pytest.fixture(scope="session")
def catalog():
    return TaskCatalog()
