"""Ranks that were started for another split are refused before they wait for each other."""

from __future__ import annotations

import pytest
import torch

from neoxrun.errors import UsageError
from neoxrun.parallel.mesh import connect_ranks


def test_another_number_of_ranks_than_the_split_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="3 ranks were started, and tp 1 x pp 1 x replicas 2 needs 2") as caught:
        connect_ranks(1, 1, 2, torch.device("cpu"))
    assert caught.value.code == "different_commands"
    assert "every host" in (caught.value.hint or "")
