"""The sum over GPUs by the kernel that writes into their memory, against fp64: run on two ranks by torchrun."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

from neoxrun.model.kernels import triton_kernels
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.peers import connect_peers
from support.ranks import torchrun

ROWS, WIDTH = 64, 1536
BOUND = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.mark.skipif(
    torch.cuda.device_count() < 2 or not torch.cuda.can_device_access_peer(0, 1),
    reason="needs two GPUs that can reach each other's memory",
)
def test_sums_of_two_gpus() -> None:
    torchrun(__file__, ranks=2)


def check(mesh: meshes.Mesh, dtype: torch.dtype) -> None:
    device = mesh.device
    fused = triton_kernels(device)
    assert fused is not None
    peers = connect_peers(mesh, ROWS, WIDTH, dtype)
    assert peers is not None, "the GPUs can reach each other's memory"
    own = torch.Generator(device).manual_seed(mesh.tp_rank)
    same = torch.Generator(device).manual_seed(99)
    norms = tuple(
        (torch.randn(WIDTH, device=device, generator=same).to(dtype), torch.zeros(WIDTH, device=device, dtype=dtype))
        for _ in range(2)
    )
    sums = []
    for step in range(400):
        rows = (1, 3, ROWS, 2, 1, 17)[step % 6]
        x = torch.randn(rows, WIDTH, device=device, generator=same).to(dtype)
        parts = tuple(torch.randn(rows, WIDTH, device=device, generator=own).to(dtype) for _ in range(1 + step % 2))
        if (step + mesh.tp_rank) % 7 == 0:
            torch.cuda._sleep(200_000)  # one rank is late
        total, _ = fused.add_norms(x, parts, norms, 1e-5, peers)
        sums.append((x, parts, total))
    for x, parts, total in sums:
        added = sum(part.double() for part in parts)
        assert isinstance(added, torch.Tensor)
        dist.all_reduce(added, group=mesh.tp_group)
        right = x.double() + added
        assert float((total.double() - right).norm() / right.norm()) < 2 * BOUND[dtype]
        other = [torch.empty_like(total) for _ in range(2)]
        dist.all_gather(other, total, group=mesh.tp_group)
        assert torch.equal(other[0], other[1]), "both ranks hold the same bits"


def main() -> None:
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    mesh = meshes.connect_ranks(2, 1, 1, device)
    for dtype in BOUND:
        check(mesh, dtype)
    meshes.disconnect_ranks()


if __name__ == "__main__":
    main()
