"""Memory of the tensor-parallel ranks' GPUs that a kernel of any of them can write."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch.distributed import _symmetric_memory as symmetric_memory

from neoxrun.parallel.mesh import Mesh
from neoxrun.terminal.log import log


@dataclass(frozen=True)
class PeerMemory:
    """A buffer on each tensor-parallel rank, into which the others write what it is to sum.

    It holds two halves of ``[ranks, rows, width]``, used in turn, and int32 flags ``[ranks, rows]``: how often each
    rank has written each row.

    Attributes:
        rows: most rows of a sum.
        addresses: int64 ``[ranks]``, on the device: where the buffers are, this rank's among them.
        uses: int32 ``[rows]``, on the device: how often each row was summed.
        flags_at: bytes from a buffer's address to its flags.
        rank: this rank's number among the tensor-parallel ranks.
        buffer: this rank's own.
    """

    rows: int
    addresses: torch.Tensor
    uses: torch.Tensor
    flags_at: int
    rank: int
    buffer: torch.Tensor

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.addresses)


def connect_peers(mesh: Mesh, rows: int, width: int, dtype: torch.dtype) -> PeerMemory | None:
    """Open the memory of the other tensor-parallel ranks; every rank of a replica calls it.

    Args:
        mesh: this rank among the others.
        rows: most rows of a sum.
        width: numbers of a row.
        dtype: of the numbers.

    Returns:
        None, on all ranks, where one of them cannot reach the memory of the others: GPUs of several hosts, or without
        peer access.
    """
    halves = 2 * mesh.tp * rows * width * dtype.itemsize
    buffer = memory = None
    # The kernels only write and read; torch would set up multicast, too, which not every host allows.
    os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")
    if _on_one_host(mesh):
        try:
            buffer = symmetric_memory.empty(halves + 4 * mesh.tp * rows, dtype=torch.uint8, device=mesh.device)
            buffer.zero_()
        except RuntimeError as error:
            log.debug(f"no memory that other GPUs can reach: {error}")
    if not mesh.minimum(buffer is not None):  # in the next call the ranks wait for each other
        return None
    assert buffer is not None
    assert mesh.tp_group is not None
    try:
        handle = symmetric_memory.rendezvous(buffer, mesh.tp_group)
        addresses = torch.tensor(handle.buffer_ptrs, dtype=torch.int64, device=mesh.device)
        uses = torch.zeros(rows, dtype=torch.int32, device=mesh.device)
        memory = PeerMemory(rows, addresses, uses, halves, mesh.tp_rank, buffer)
    except (RuntimeError, ValueError) as error:
        log.debug(f"no access to the memory of other GPUs: {error}")
    torch.cuda.synchronize(mesh.device)  # all is zero before the first rank writes
    if mesh.minimum(memory is not None):
        return memory
    if mesh.leads:
        log.info("the GPUs cannot reach each other's memory: NCCL does their sums")
    return None


def _on_one_host(mesh: Mesh) -> bool:
    """Whether the tensor-parallel ranks, whose numbers are consecutive, run on one host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) % mesh.tp == 0
