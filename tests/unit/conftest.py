"""Fixtures of the unit tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neoxrun.evaluation import catalog


@pytest.fixture(scope="session", autouse=True)
def read_folder() -> Iterator[Callable[..., dict[str, catalog.TaskName]]]:
    """lm-eval has 14,000 task files, and needs a second to find their names: done once. Yields what reads them."""
    read_folder = catalog._read_folder
    shipped = functools.cache(functools.partial(read_folder, users=False))

    def read(root: Path, *, users: bool) -> dict[str, catalog.TaskName]:
        return read_folder(root, users=True) if users else dict(shipped(root))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "_read_folder", read)
        yield read_folder
