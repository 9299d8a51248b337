"""Attention as the network sees it: one operation of a pass, done by whichever backend the pass was made for.

Backends: ``paged_torch`` and ``paged_cuda`` with a key-value cache, ``tree`` for scoring, which keeps nothing.
"""

from __future__ import annotations

from typing import Protocol

import torch


class Attention(Protocol):
    """Who sees whom in a pass, and where keys and values go."""

    def attend(self, layer: int, qkv: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """Turn queries and keys by their positions, keep keys and values, and attend.

        Args:
            layer: index of the layer in this stage.
            qkv: ``[T, N, 3, D]``, for ``T`` tokens and this rank's ``N`` heads; may be overwritten.
            wanted: int64, the tokens whose outputs are wanted; None: all.

        Returns:
            ``[T, N * D]``, or as many tokens as are wanted. The softmax is scaled by ``1 / sqrt(D)``.
        """
