"""Fixtures of the tests of checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.config.settings import Settings
from support.checkpoints import LAYER, TINY, random_model
from support.plans import settings_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of TINY at tensor-parallel size 2."""
    save_layer_files(random_model(TINY, 64), tmp_path, tp=2, config=TINY, tag="global_step1")
    return tmp_path


@pytest.fixture
def settings(folder: Path) -> Settings:
    """Of a model whose weights are that checkpoint."""
    return replace(settings_for(2, 16, 4), model=TINY, checkpoint=folder)


@pytest.fixture
def step(folder: Path) -> Path:
    return folder / "global_step1"


@pytest.fixture
def layer(folder: Path) -> Path:
    return folder / LAYER
