"""The key-value cache: pages of consecutive positions, allocated once.

Shapes: ``L`` this stage's layers, ``N`` this rank's heads, ``P`` positions of a page, ``D`` head dim.
"""

from __future__ import annotations

import torch


class KVCache:
    """Keys and values, ``[L, pages, N, P, D]`` each."""

    def __init__(
        self,
        layers: int,
        pages: int,
        heads: int,
        page_size: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.pages, self.page_size, self.dtype = pages, page_size, dtype
        shape = (layers, pages, heads, page_size, head_dim)
        # Zeros, since a masked position must still hold a finite number.
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer's keys and values, ``[pages, N, P, D]``."""
        return self._keys[layer], self._values[layer]
