"""Fixtures of the tests of configurations."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.configurations import SMALL, write_config


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A configuration with nothing but what is required, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return os.path.relpath(write_config(tmp_path, SMALL))
