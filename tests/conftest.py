"""Options and fixtures that every test may use."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from support.paths import shared_folder
from support.snapshots import Snapshot, Snapshots, snapshots_of

# scripts/test sets it.
THOROUGH = bool(os.environ.get("NEOXRUN_THOROUGH"))

# How long an example takes depends on what else the machine does.
EXAMPLES = 100 if THOROUGH else 30
hypothesis.settings.register_profile("no deadline", deadline=None, max_examples=EXAMPLES)
hypothesis.settings.load_profile("no deadline")

# Small models run fastest on one core, and most tests run several processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU, Triton's kernels run in its interpreter, which must be known before anything imports Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

TESTS = Path(__file__).resolve().parent
MARKED_FOLDERS = ("e2e", "parity", "gpu")
COLLECTED = pytest.StashKey[dict[Path, set[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-snapshots", action="store_true", help="write what commands say to tests/*/snapshots")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test of a folder with the folder's name, leave slow unit tests out, and note which tests there are."""
    single_tests = any("::" in argument for argument in config.args)
    if not (THOROUGH or single_tests or config.option.markexpr or config.option.keyword):
        slow = [item for item in items if item.get_closest_marker("slow") and item.path.is_relative_to(TESTS / "unit")]
        items[:] = [item for item in items if item not in slow]
        config.hook.pytest_deselected(items=slow)
    collected: dict[Path, set[str]] = {}
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)
        collected.setdefault(snapshots_of(item.path), set()).add(item.name)
    config.stash[COLLECTED] = {} if single_tests else collected


def pytest_collection_finish() -> None:
    """Leave out what is imported by now from the search for garbage, which took a tenth of the unit tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def snapshots(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snapshots]:
    snapshots = Snapshots(write=pytestconfig.getoption("--write-snapshots"), temporary=tmp_path_factory.getbasetemp())
    yield snapshots
    snapshots.save(pytestconfig.stash[COLLECTED])


@pytest.fixture
def snapshot(snapshots: Snapshots, request: pytest.FixtureRequest) -> Snapshot:
    """Compares what a command says with the repository's record of it: see support/snapshots.py."""
    return Snapshot(snapshots, request.path, request.node.name)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the published data of LAMBADA and PIQA, which the project's own CI has next to the checkout."""
    folder = shared_folder()
    if not (folder / "data").is_dir():
        pytest.skip(f"no published data sets in {folder / 'data'} (NEOXRUN_SHARED names that folder's parent)")
    return folder
