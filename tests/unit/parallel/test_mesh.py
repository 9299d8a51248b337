"""Ranks that do not meet."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
import torch

from neoxrun.errors import RankError
from neoxrun.parallel import mesh


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_waits_in_vain(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    world = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**world, "LOCAL_WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(mesh, "_MEETING_TIMEOUT", timedelta(seconds=1))
    with pytest.raises(RankError, match=f"the 2 ranks did not meet at 127.0.0.1:{port}") as caught:
        mesh.connect_ranks(2, 1, 1, torch.device("cpu"))
    assert caught.value.code == "no_meeting"
