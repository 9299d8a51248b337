"""The residual stream: what the layers add to it, summed over the tensor-parallel ranks, and the norms of the sum.

Shapes: ``T`` tokens, ``H`` hidden.
"""

from __future__ import annotations

from typing import Final

import torch

from neoxrun.model.kernels import triton_kernels
from neoxrun.model.norms import LayerNorm, Norm
from neoxrun.parallel.mesh import Mesh
from neoxrun.parallel.peers import PeerMemory, connect_peers

PEER_ROWS: Final = 128
"""Most tokens of a pass whose sums are made by the kernel that writes to other GPUs' memory: one program a token, which
waits for that of the other GPUs, so that all of them must run at the same time."""


class ResidualStream:
    """Adds to the stream of a pass.

    Args:
        mesh: this rank's coordinates.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._peers: PeerMemory | None = None
        self._connected = False

    def connect(self, width: int, dtype: torch.dtype) -> None:
        """Where the GPUs can reach each other's memory, let one kernel do a decode step's all-reduce and norms.

        Every rank of the replica calls it, where all have the kernels.

        Args:
            width: ``H``.
            dtype: of the stream.
        """
        if not self._connected:  # once, also where the answer is that they cannot
            self._connected = True
            processors = torch.cuda.get_device_properties(self._mesh.device).multi_processor_count
            self._peers = connect_peers(self._mesh, self._mesh.minimum(min(PEER_ROWS, processors)), width, dtype)

    def add(self, x: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The stream with what a layer adds to it.

        Args:
            x: ``[T, H]``, the same on every tensor-parallel rank.
            parts: at most two of ``[T, H]``, this rank's share; they are added to each other first.
        """
        if not parts:
            return x
        return x + self._sum(parts)

    def add_and_normalize(
        self, x: torch.Tensor, parts: tuple[torch.Tensor, ...], norms: tuple[Norm, ...]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """As ``add``, with norms of the sum: one kernel where there is one.

        Args:
            x: ``[T, H]``.
            parts: at most two of ``[T, H]``, this rank's share.
            norms: one, or two of the same kind.

        Returns:
            The sum, and each norm of it.
        """
        fused = triton_kernels(x.device)
        if fused is None:
            x = self.add(x, parts)
            return x, tuple(norm(x) for norm in norms)
        peers = self._peers
        if self._mesh.tp > 1 and parts and (peers is None or len(x) > peers.rows):
            peers, parts = None, (self._sum(parts),)
        weights = tuple(
            (norm.weight, norm.bias) if isinstance(norm, LayerNorm) else (norm.scale, None) for norm in norms
        )
        found: tuple[torch.Tensor, tuple[torch.Tensor, ...]] = fused.add_norms(
            x, parts, weights, norms[0].epsilon, peers if parts else None
        )
        return found

    def _sum(self, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Of all parts of all tensor-parallel ranks."""
        return self._mesh.all_reduce(parts[0] if len(parts) == 1 else parts[0] + parts[1])
