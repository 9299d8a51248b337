"""What training consumes: rows of tokens, in the order in which they are used. No torch."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Row(NamedTuple):
    """One row, of ``T = seq_length`` tokens that the network sees.

    Attributes:
        ids: int64 ``[T + 1]``: ``ids[:-1]`` is the input, ``ids[1:]`` are the targets. A shorter row is padded.
        learned: bool ``[T]``: whether each target counts in the loss. Padding never does.
    """

    ids: NDArray[np.int64]
    learned: NDArray[np.bool_]


class Rows(Protocol):
    """Rows in the order in which they are consumed: step ``s`` (from 0) takes those of ``[s * B, (s + 1) * B)``.

    The order depends on the data and the seed only, not on how many ranks share it. Every rank has all rows.
    """

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int) -> Row:
        """The row at a place in the order."""
