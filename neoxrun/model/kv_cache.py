"""The key-value cache: one slot per running sequence, allocated once.

Shapes: ``L`` this stage's layers, ``N`` this rank's heads, ``S`` positions of a slot, ``D`` head dim.
"""

from __future__ import annotations

import torch


class KVCache:
    """Keys and values of ``slots`` sequences, ``[L, slots, N, S, D]`` each."""

    def __init__(
        self,
        layers: int,
        slots: int,
        heads: int,
        length: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.slots = slots
        self.length = length
        shape = (layers, slots, heads, length, head_dim)
        # Zeros, since masked positions must hold finite numbers too.
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)

    def layer(self, layer: int, first_slot: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of one layer's keys and values in ``count`` slots, ``[count, N, S, D]`` each."""
        slots = slice(first_slot, first_slot + count)
        return self._keys[layer, slots], self._values[layer, slots]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a slot over another."""
        for store in (self._keys, self._values):
            store[:, target, :, :length] = store[:, source, :, :length]
