"""Rows of tokens, cut from a corpus in one of three ways."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neoxrun.training.data.packing import Packing, blend
from neoxrun.training.data.tokens import CorpusTokens
from neoxrun.training.rows import Row, Rows


class PackedRows:
    """Rows that are cut from documents which follow one another.

    Args:
        tokens: of the documents.
        packing: the cuts.
        skipped: as in GPT-NeoX's ``eod_mask_loss``, the end of document, after which a token is not learned.
        count: rows that are wanted, of those that there are.
    """

    def __init__(self, tokens: CorpusTokens, packing: Packing, skipped: int | None, count: int) -> None:
        self._tokens, self._packing, self._skipped, self._count = tokens, packing, skipped, count

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def __getitem__(self, index: int) -> Row:
        """The row at a place in the order."""
        pieces = self._packing.pieces(range(self._count)[index])
        ids = np.concatenate([self._tokens.read(*piece) for piece in pieces])
        learned = np.concatenate([self._tokens.learned(*piece) for piece in pieces])[1:]
        return Row(ids, learned if self._skipped is None else learned & (ids[:-1] != self._skipped))


class DocumentRows:
    """Rows that hold one document each, cut or padded to the length of a row.

    Args:
        tokens: of the documents.
        order: the document of each row.
        seq_length: tokens that the network sees.
        padding: the id that fills a row.
    """

    def __init__(self, tokens: CorpusTokens, order: NDArray[np.int64], seq_length: int, padding: int) -> None:
        self._tokens, self._order = tokens, order
        self._longest, self._padding = seq_length + 1, padding

    def __len__(self) -> int:
        """How many there are."""
        return len(self._order)

    def __getitem__(self, index: int) -> Row:
        """The row at a place in the order."""
        document = int(self._order[index])
        ids = self._tokens.read(document, 0, self._longest)
        missing = self._longest - len(ids)
        learned = self._tokens.learned(document, 0, self._longest)[1:]
        return Row(np.pad(ids, (0, missing), constant_values=self._padding), np.pad(learned, (0, missing)))


class BlendedRows:
    """Rows of several data by their weights.

    Args:
        parts: the rows of each.
        weights: of each.
        count: rows that are wanted.
    """

    def __init__(self, parts: Sequence[Rows], weights: Sequence[float], count: int) -> None:
        self._parts = parts
        self._sources, self._numbers = blend(weights, count)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._sources)

    def __getitem__(self, index: int) -> Row:
        """The row at a place in the order."""
        part, number = self._parts[int(self._sources[index])], int(self._numbers[index])
        return part[number if number < len(part) else number % max(1, len(part) - 1)]  # as BlendableDataset does
