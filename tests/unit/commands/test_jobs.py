"""What the commands say of the weights that they run."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from neoxrun.checkpoint import find
from neoxrun.commands import jobs
from neoxrun.config.reader import load_settings
from support.plans import planned


@pytest.mark.parametrize(("random", "searches"), [(False, 1), (True, 0)])
def test_the_checkpoint_is_found_once(random: bool, searches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    def search(settings: Any) -> Any:
        found.append(find.find_configured_checkpoint(settings))
        return found[-1]

    monkeypatch.setattr(jobs, "find_configured_checkpoint", search)
    monkeypatch.setattr(jobs.fingerprint, "find_configured_checkpoint", search)
    args = argparse.Namespace(random_weights=random)
    described = jobs.describe_weights(args, load_settings(["demo"]), planned("20B", "80GB"))
    assert len(found) == searches
    assert ("weights_fingerprint" in described) is not random
