"""Keeping this process away from the Hugging Face hub for a while."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest

_CONSTANTS = ("huggingface_hub.constants", "datasets.config")  # they read the environment when they are imported


@contextlib.contextmanager
def without_hub() -> Iterator[None]:
    """Nothing in this process asks the hub; afterwards it may again, whatever neoxrun has set in between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        before = {name: vars(sys.modules[name])["HF_HUB_OFFLINE"] for name in _CONSTANTS if name in sys.modules}
        yield
    for name in _CONSTANTS:
        if name in sys.modules:
            vars(sys.modules[name])["HF_HUB_OFFLINE"] = before.get(name, False)
