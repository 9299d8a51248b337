"""Fixtures of the Python API's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from neoxrun import LLM


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    """The demo model in this process, exact."""
    with LLM("demo", device="cpu", dtype="fp32") as loaded:
        yield loaded
