"""Documents that are evaluated and trained on: the evaluation then says little about other texts. No torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

import numpy as np

from neoxrun.training.data.corpus import Corpus
from neoxrun.training.data.indexed import with_ending

_MOST: Final = 1_000_000
"""Documents of each side that are looked at; they take some seconds."""


def count_repeated(train: Sequence[Corpus], valid: Sequence[Corpus]) -> int:
    """How many of the documents of ``valid`` are, token by token, in ``train`` too.

    Of each, the first million documents are looked at; those of ``train`` only where they have the length of one of
    ``valid``.
    """
    wanted = Counter(islice(chain.from_iterable(_digests(one, None) for one in valid), _MOST))
    lengths = np.unique(np.concatenate([one.own_sizes for one in valid]))
    found = set(islice(chain.from_iterable(_digests(one, lengths) for one in train), _MOST))
    return sum(count for digest, count in wanted.items() if digest in found)


def _digests(corpus: Corpus, lengths: np.ndarray[tuple[int], np.dtype[np.int32]] | None) -> Iterator[bytes]:
    """A digest of each document, or of those that have one of these lengths."""
    first = 0
    for index in corpus.indexes:
        own = np.arange(max(corpus.documents.start - first, 0), min(corpus.documents.stop - first, len(index.sizes)))
        first += len(index.sizes)
        if not index.sizes.any():  # an empty file cannot be mapped
            continue
        content = np.memmap(with_ending(index.prefix, ".bin"), np.uint8, "r")
        for number in own if lengths is None else own[np.isin(index.sizes[own], lengths)]:
            begin = int(index.starts[number])
            ids = content[begin : begin + int(index.sizes[number]) * index.item].view(f"<u{index.item}")
            yield hashlib.blake2b(ids.astype(np.int64).tobytes(), digest_size=16).digest()
