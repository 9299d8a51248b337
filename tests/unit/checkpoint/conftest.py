"""Fixtures of the tests of checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.checkpoint.writers import save_layer_files
from support.checkpoints import LAYER, TINY, random_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of TINY at tensor-parallel size 2."""
    save_layer_files(random_model(TINY, 64), tmp_path, tp=2, config=TINY, tag="global_step1")
    return tmp_path


@pytest.fixture
def layer(folder: Path) -> Path:
    return folder / LAYER
