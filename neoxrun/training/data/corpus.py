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
from neoxrun.training.data.cache import LEARNED, Encoder, cached
from neoxrun.training.data.indexed import Index, indexed_prefix, read_index, with_ending


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

    def alone(self, longest: int) -> NDArray[np.int64]:
        """The numbers of the documents of which something is learned within ``longest`` tokens."""
        learnable = np.concatenate([_learnable(index, longest) for index in self.indexes])
        return self.documents.start + np.flatnonzero(learnable[self.documents.start : self.documents.stop])

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


def read_marks(index: Index) -> NDArray[np.bool_] | None:
    """What is learned of a file's tokens; None: everything."""
    path = with_ending(index.prefix, LEARNED)
    return np.memmap(path, np.bool_, "r") if path.is_file() and path.stat().st_size else None


def _learnable(index: Index, longest: int) -> NDArray[np.bool_]:
    """Of each document, whether one of its tokens after the first, within ``longest``, is learned."""
    found: NDArray[np.bool_] = index.sizes > 1
    marks = read_marks(index)
    if marks is None or longest < 2:
        return found & (longest > 1)
    first = index.starts[found] // index.item
    stops = first + np.minimum(index.sizes[found], longest)
    # Of each stretch and of what is between them; a stretch that ends with the file has no bound there.
    bounds = np.stack([first + 1, stops], axis=1).ravel()
    found[found] = np.logical_or.reduceat(marks, bounds[bounds < len(marks)])[::2]
    return found


def check_corpus(corpus: Corpus, longest: int | None) -> None:
    """Refuse documents of which nothing can be learned.

    Args:
        corpus: the documents.
        longest: tokens of a row, where each document has its own; None: they follow one another.

    Raises:
        DataError: there are none, or each has a single token, or none; or of none anything is learned in a row.
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
    if longest is not None and not len(corpus.alone(longest)):
        raise DataError(
            f"in no document of {names} anything is learned within {longest} tokens",
            code="no_tokens",
            hint="Give a greater --seq-length, or leave --no-pack out.",
        )
