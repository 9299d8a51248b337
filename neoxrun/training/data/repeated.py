"""Documents that are evaluated and trained on: the evaluation then says little about other texts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

import numpy as np

from neoxrun.training.data.tokens import CorpusTokens

_MOST: Final = 1_000_000
"""Documents of each side that are looked at; they take some seconds."""


def count_repeated(train: Sequence[CorpusTokens], valid: Sequence[CorpusTokens]) -> int:
    """How many of the documents of ``valid`` are, token by token, in ``train`` too.

    Of each, the first million documents are looked at; those of ``train`` only where they have the length of one of
    ``valid``.

    Raises:
        DataError: a document has ids that the model does not have.
    """
    wanted = Counter(islice(chain.from_iterable(_digests(one, None) for one in valid), _MOST))
    lengths = np.unique(np.concatenate([one.corpus.own_sizes for one in valid]))
    found = set(islice(chain.from_iterable(_digests(one, lengths) for one in train), _MOST))
    return sum(count for digest, count in wanted.items() if digest in found)


def _digests(tokens: CorpusTokens, lengths: np.ndarray[tuple[int], np.dtype[np.int32]] | None) -> Iterator[bytes]:
    """A digest of each document, or of those that have one of these lengths."""
    corpus = tokens.corpus
    numbers = np.arange(corpus.documents.start, corpus.documents.stop)
    for number in numbers if lengths is None else numbers[np.isin(corpus.own_sizes, lengths)]:
        ids = tokens.read(int(number), 0, int(corpus.sizes[number]))
        yield hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
