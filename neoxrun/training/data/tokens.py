"""The tokens of packed data, by megatron-core's reader, and what is learned of them."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from neoxrun.errors import DataError
from neoxrun.training.data.corpus import Corpus, read_marks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that Transformer Engine and Apex are missing, which nothing here needs
    from megatron.core.datasets.indexed_dataset import IndexedDataset


class CorpusTokens:
    """The tokens of a corpus's documents.

    Args:
        corpus: the documents.
        vocab_size: rows of the model's vocabulary.

    Attributes:
        corpus: the same.
    """

    def __init__(self, corpus: Corpus, vocab_size: int) -> None:
        self.corpus, self._vocab_size = corpus, vocab_size
        # fast_cache_load leaves out the check that the last document ends at the last sequence: it does not in what
        # GPT-NeoX's merge_datasets.py writes. read_index has checked what matters.
        self._readers = [IndexedDataset(str(index.prefix), fast_cache_load=True) for index in corpus.indexes]
        self._marks = [read_marks(index) for index in corpus.indexes]
        self._firsts = np.cumsum([0, *(len(index.sizes) for index in corpus.indexes)])

    def read(self, document: int, begin: int, end: int) -> NDArray[np.int64]:
        """Tokens ``begin`` to ``end`` of a document, or to its end.

        Raises:
            DataError: the model does not have one of them.
        """
        file, own, end = self._find(document, end)
        ids: NDArray[np.int64] = self._readers[file].get(own, begin, end - begin).astype(np.int64)
        wrong = ids[(ids < 0) | (ids >= self._vocab_size)]
        if len(wrong):
            name = self.corpus.names[file]
            raise DataError(
                f"document {own} of {name} has the token id {wrong[0]}, but the model has only ids 0 to "
                f"{self._vocab_size - 1}",
                code="foreign_tokens",
                where=str(name),
                hint="The data were packed with another tokenizer. Pack the texts again with the model's own.",
            )
        return ids

    def learned(self, document: int, begin: int, end: int) -> NDArray[np.bool_]:
        """Which of these tokens are learned."""
        file, own, end = self._find(document, end)
        marks = self._marks[file]
        if marks is None:
            return np.ones(end - begin, np.bool_)
        index = self.corpus.indexes[file]
        first = int(index.starts[own]) // index.item
        return np.array(marks[first + begin : first + end])

    def _find(self, document: int, end: int) -> tuple[int, int, int]:
        """The file of a document, its number there, and ``end``, or the document's where that comes before."""
        file = int(np.searchsorted(self._firsts, document, "right")) - 1
        own = document - int(self._firsts[file])
        return file, own, min(end, int(self.corpus.indexes[file].sizes[own]))
