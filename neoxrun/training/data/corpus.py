"""All documents of some files, numbered one after the other: how long each is. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neoxrun.errors import DataError
from neoxrun.terminal.words import listing
from neoxrun.training.data.cache import Encoder, cached
from neoxrun.training.data.indexed import Index, indexed_prefix, read_index


@dataclass(frozen=True)
class Corpus:
    """Documents that are shuffled together.

    Attributes:
        names: of the files, as they were given.
        indexes: of their tokens, in the order of the files.
        documents: those that are used, of all in all files.
    """

    names: tuple[Path, ...]
    indexes: tuple[Index, ...]
    documents: range

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """Tokens of every document, also of those that are not used."""
        return np.concatenate([index.sizes for index in self.indexes])

    @property
    def own_sizes(self) -> NDArray[np.int32]:
        """Tokens of the documents that are used."""
        return self.sizes[self.documents.start : self.documents.stop]

    @property
    def tokens(self) -> int:
        """Tokens of the documents that are used."""
        return int(self.own_sizes.sum(dtype=np.int64))

    def part(self, documents: range) -> Corpus:
        """The same files with other documents."""
        return Corpus(self.names, self.indexes, documents)


def open_corpus(files: Sequence[Path], column: str, end: str, encoder: Encoder, cache: Path, *, show: bool) -> Corpus:
    """The documents of files, of which texts are encoded first; see ``cache.cached``.

    Raises:
        DataError: a file cannot be read or used, or the cache cannot be written.
    """
    prefixes = [indexed_prefix(path) or cached(path, column, end, encoder, cache, show=show) for path in files]
    found = [(path, read_index(prefix)) for path, prefix in zip(files, prefixes, strict=True)]
    found = [(path, index) for path, index in found if index.sizes.any()] or found[:1]  # an empty file cannot be mapped
    names, indexes = zip(*found, strict=True)
    return Corpus(names, indexes, range(sum(len(index.sizes) for index in indexes)))


def check_corpus(corpus: Corpus) -> None:
    """Refuse documents of which nothing can be learned.

    Raises:
        DataError: there are none, or each has a single token, or none.
    """
    names = listing([str(name) for name in corpus.names])
    if not corpus.documents:
        raise DataError(
            f"there are no documents in {names}", code="no_documents", hint="Check that it is the right file."
        )
    if corpus.own_sizes.max() < 2:
        raise DataError(
            f"no document in {names} has more than one token, so there is nothing to learn",
            code="no_tokens",
            hint="A token is learned from those before it. Check that it is the right file, and --column.",
        )
