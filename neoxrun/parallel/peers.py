"""Memory of the tensor-parallel ranks' GPUs that a kernel of any of them can write."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import torch

from neoxrun.parallel.mesh import Mesh
from neoxrun.parallel.shared_memory import allocate_zeros, handle_of, map_handle
from neoxrun.terminal.log import log

PEER_ROWS: Final = 128
"""Most tokens of a pass whose sums are made by the kernel that writes to other GPUs' memory: one program a token, which
waits for that of the other GPUs, so that all of them must run at the same time."""


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
    """

    rows: int
    addresses: torch.Tensor
    uses: torch.Tensor
    flags_at: int
    rank: int

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.addresses)


def connect_peers(mesh: Mesh, rows: int, width: int, dtype: torch.dtype) -> PeerMemory | None:
    """Map the memory of the other tensor-parallel ranks, until the process ends; every rank of a replica calls it.

    Args:
        mesh: this rank among the others. Its device is the current one.
        rows: most rows of a sum; fewer where a GPU has fewer processors.
        width: numbers of a row.
        dtype: of the numbers.

    Returns:
        None, on all ranks, where one of them cannot reach the memory of the others: GPUs of several hosts, or without
        peer access.
    """
    processors = torch.cuda.get_device_properties(mesh.device).multi_processor_count
    rows = mesh.minimum(min(rows, processors))
    halves = 2 * mesh.tp * rows * width * dtype.itemsize
    own, handle, memory = 0, b"", None
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) % mesh.tp == 0:  # their numbers are consecutive: they share a host
        try:
            own = allocate_zeros(halves + 4 * mesh.tp * rows)
            handle = handle_of(own)
        except RuntimeError as error:
            log.debug(f"this GPU's memory cannot be shared: {error}")
    handles = mesh.gather_from_tp(handle)
    if all(handles):
        try:
            found = [own if rank == mesh.tp_rank else map_handle(other) for rank, other in enumerate(handles)]
            addresses = torch.tensor(found, dtype=torch.int64, device=mesh.device)
            uses = torch.zeros(rows, dtype=torch.int32, device=mesh.device)
            memory = PeerMemory(rows, addresses, uses, halves, mesh.tp_rank)
        except RuntimeError as error:
            log.debug(f"no access to the memory of other GPUs: {error}")
    if mesh.minimum(memory is not None):
        return memory
    if mesh.leads:
        log.info("the GPUs cannot reach each other's memory: NCCL does their sums")
    return None
