"""What one pass over the network computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neoxrun.model.attention import Attention


@dataclass(frozen=True)
class Batch:
    """Tokens of any number of sequences, one after the other. ``T`` tokens, ``P`` of them with an output.

    Attributes:
        ids: int64 ``[T]``.
        positions: int64 ``[T]``, of each token in its sequence.
        attention: who sees whom, and where keys and values go.
        outputs: int64 ``[P]``, the tokens whose outputs are wanted; None: all of them.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    attention: Attention
    outputs: torch.Tensor | None = None
