"""The residual stream: what the layers add to it, summed over the tensor-parallel ranks, and the norms of the sum.

Shapes: ``T`` tokens, ``H`` hidden.
"""

from __future__ import annotations

import torch

from neoxrun.model.kernels import triton_kernels
from neoxrun.model.norms import LayerNorm, Norm
from neoxrun.parallel.mesh import Mesh
from neoxrun.parallel.peers import PeerMemory


class ResidualStream:
    """Adds to the stream of a pass.

    Args:
        mesh: this rank's coordinates.

    Attributes:
        peers: where there is such memory, one kernel does a decode step's all-reduce and norms; on all ranks or none.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.peers: PeerMemory | None = None
        self._mesh = mesh

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
        peers = self.peers
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
