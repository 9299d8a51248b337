"""Which documents, in which order, cut where: GPT-NeoX's arithmetic, on sizes alone. No torch.

The sources are GPT-NeoX's ``data_utils.py``, ``gpt2_dataset.py`` and ``helpers.cpp``. Equal seeds give its very rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def split_documents(split: Sequence[float], documents: int) -> list[range]:
    """The documents of train, valid and test, in file order (``get_train_valid_test_split_``).

    Args:
        split: how much of each, in any unit.
        documents: how many there are.
    """
    whole = sum(split)
    bounds = [0]
    for part in split:
        bounds.append(bounds[-1] + round(part / whole * float(documents)))
    excess = bounds[-1] - documents
    bounds = [0, *(bound - excess for bound in bounds[1:])]
    return [range(begin, end) for begin, end in pairwise(bounds)]


def rows_of(tokens: int, seq_length: int) -> int:
    """Rows of ``seq_length + 1`` tokens, of which each shares one with the next, that ``tokens`` tokens make."""
    return (tokens - 1) // seq_length


def epochs_for(rows: int, tokens: int, seq_length: int) -> int:
    """Least number of epochs of ``tokens`` tokens that make ``rows`` rows (``_num_epochs``)."""
    return max(1, -(-(rows * seq_length + 1) // tokens))


@dataclass(frozen=True)
class Packing:
    """The order of packed rows.

    Attributes:
        documents: int32, the documents of the stream in their order, all epochs together.
        ends: int64, tokens of the stream up to the end of each.
        shuffled: which row of the stream is the ``i``-th.
        seq_length: as in ``pack``.
    """

    documents: NDArray[np.int32]
    ends: NDArray[np.int64]
    shuffled: NDArray[np.uint32 | np.int64]
    seq_length: int

    def pieces(self, row: int) -> list[tuple[int, int, int]]:
        """The document, first token and end of each piece of the ``row``-th row."""
        begin = int(self.shuffled[row]) * self.seq_length
        end = begin + self.seq_length + 1
        at = int(np.searchsorted(self.ends, begin, "right"))
        pieces = []
        while begin < end:
            stop = min(int(self.ends[at]), end)
            before = 0 if at == 0 else int(self.ends[at - 1])
            if stop > begin:
                pieces.append((int(self.documents[at]), begin - before, stop - before))
            begin, at = stop, at + 1
        return pieces


def pack(sizes: NDArray[np.int32], documents: range, rows: int, seq_length: int, seed: int) -> Packing:
    """Order documents and cut them into rows (``_build_index_mappings`` with ``packed``).

    The documents of all epochs are shuffled together and follow one another; row ``i`` begins at token
    ``i * seq_length``. Then the rows are shuffled by the same generator.

    Args:
        sizes: tokens of every document of the data.
        documents: those that are used; they have at least one token.
        rows: how many are needed at least; as many epochs as they need are used whole.
        seq_length: tokens of a row, without the one that it shares with the next.
        seed: of the order.
    """
    tokens = int(sizes[documents.start : documents.stop].sum(dtype=np.int64))
    epochs = epochs_for(rows, tokens, seq_length)
    generator = np.random.RandomState(seed)
    order = np.tile(np.arange(documents.start, documents.stop, dtype=np.int32), epochs)
    generator.shuffle(order)
    count = rows_of(epochs * tokens, seq_length)
    shuffled: NDArray[np.uint32 | np.int64] = np.arange(
        count, dtype=np.uint32 if count < np.iinfo(np.uint32).max - 1 else np.int64
    )
    generator.shuffle(shuffled)
    return Packing(order, np.cumsum(sizes[order], dtype=np.int64), shuffled, seq_length)


def packing_bytes(documents: int, tokens: int, rows: int, seq_length: int) -> int:
    """The most memory that ``pack`` uses, for this many documents of this many tokens in all.

    A place in the order of documents has its number and its end and, while these are summed, its size twice.
    """
    epochs = epochs_for(rows, tokens, seq_length)
    count = rows_of(epochs * tokens, seq_length)
    return 24 * documents * epochs + (4 if count < np.iinfo(np.uint32).max - 1 else 8) * count


def order_documents(documents: Sequence[int] | NDArray[np.int64], rows: int, seed: int) -> NDArray[np.int64]:
    """``rows`` documents, every epoch whole and in a new order: for one document a row."""
    generator = np.random.RandomState(seed)
    epochs = max(1, -(-rows // len(documents)))
    return np.concatenate([generator.permutation(np.asarray(documents)) for _ in range(epochs)])[:rows]


def blended_rows(weights: Sequence[float], rows: int) -> list[int]:
    """Rows that each of several data needs, with half a per cent to spare (``get_normalized_weights_and_num_samples``).

    Args:
        weights: of the data.
        rows: how many are needed of all.
    """
    whole = sum(weights)
    return [math.ceil(rows * (weight / whole) * 1.005) for weight in weights]


def blend(weights: Sequence[float], rows: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """From which data the ``i``-th row comes, and which of its rows it is (``build_blending_indices``).

    It is always the one that lags most behind its weight, the first of several such.

    Args:
        weights: of the data.
        rows: how many are needed of all.
    """
    parts = np.array([weight / sum(weights) for weight in weights], np.float64)
    shares = (parts / np.sum(parts)).tolist()  # twice, as GPT-NeoX does: the last bit decides who lags most
    sources, numbers = np.zeros(rows, np.uint8), np.zeros(rows, np.int64)
    used = [0] * len(shares)
    for row in range(rows):
        behind = [share * max(row, 1.0) - count for share, count in zip(shares, used, strict=True)]
        source = behind.index(max(behind))
        sources[row], numbers[row] = source, used[source]
        used[source] += 1
    return sources, numbers
