"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# Small models run fastest on one core, and most tests run several processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
MARKED_FOLDERS = ("e2e", "parity", "gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of a folder with the folder's name."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the published data of LAMBADA and PIQA, which the project's own CI has next to the checkout."""
    folder = Path(os.environ.get("NEOXRUN_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no published data sets in {folder / 'data'} (NEOXRUN_SHARED names that folder's parent)")
    return folder
