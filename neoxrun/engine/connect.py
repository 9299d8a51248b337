"""What the first pass on several GPUs would wait for, done ahead."""

from __future__ import annotations

import torch

from neoxrun.model.kernels import agree_on_kernels
from neoxrun.parallel.mesh import Mesh
from neoxrun.parallel.peers import PEER_ROWS, PeerMemory, connect_peers


def connect_gpus(mesh: Mesh, width: int, dtype: torch.dtype) -> PeerMemory | None:
    """Have the GPUs of all ranks connect and compile a first kernel, which takes seconds; in any thread.

    Args:
        mesh: this rank among the others.
        width: numbers of a token's activations.
        dtype: of the activations.

    Returns:
        Memory for the sums of the tensor-parallel ranks, where they have the kernels that use it.
    """
    torch.cuda.set_device(mesh.device)  # each thread has a current device
    mesh.connect_gpus()
    return connect_peers(mesh, PEER_ROWS, width, dtype) if agree_on_kernels(mesh) and mesh.tp > 1 else None
