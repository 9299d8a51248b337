"""From what is named to documents of tokens: the files are checked, and texts encoded. No torch.

The command does this before anything is loaded, and shows what it found; the ranks do it again, and find the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neoxrun.config.settings import TokenizerConfig
from neoxrun.config.training import DataConfig
from neoxrun.errors import DataError
from neoxrun.tokenizer import Tokenizer
from neoxrun.tokenizer.chat import ChatTemplate, read_chat_template
from neoxrun.training.data.cache import Encoder, end_of_document
from neoxrun.training.data.corpus import Corpus, check_corpus, open_corpus
from neoxrun.training.data.packing import blended_rows, packing_bytes, rows_of, split_documents


@dataclass(frozen=True)
class PreparedData:
    """The documents of a run.

    Attributes:
        train: to be trained on: one corpus, or with weights one for each file.
        valid: to evaluate on; empty where there are none.
        eod: the id that ends a document.
    """

    train: tuple[Corpus, ...]
    valid: tuple[Corpus, ...]
    eod: int

    @property
    def documents(self) -> int:
        """How many are trained on."""
        return sum(len(corpus.documents) for corpus in self.train)

    @property
    def tokens(self) -> int:
        """How many are trained on in an epoch, before rows are cut."""
        return sum(corpus.tokens for corpus in self.train)

    def rows_of_an_epoch(self, data: DataConfig) -> int:
        """Rows that all documents of ``train`` make once."""
        return _rows(self.train, data)

    def order_bytes(self, data: DataConfig, rows: int) -> int:
        """The memory that the order of so many rows to be trained on needs, on each rank."""
        if not data.packed:
            return 16 * rows  # numbers of documents, for a moment twice
        counts = [rows] if data.weights is None else blended_rows(data.weights, rows)
        parts = zip(self.train, counts, strict=True)
        packed = sum(
            packing_bytes(len(corpus.documents), corpus.tokens, count, data.seq_length) for corpus, count in parts
        )
        return packed if data.weights is None else packed + 9 * rows

    def valid_rows(self, data: DataConfig) -> int:
        """Rows that all documents of ``valid`` make once; 0 where there are none."""
        return _rows(self.valid, data)


def _rows(corpora: Sequence[Corpus], data: DataConfig) -> int:
    if not corpora:
        return 0
    if data.packed:
        return max(1, rows_of(sum(corpus.tokens for corpus in corpora), data.seq_length))
    return sum(len(corpus.alone(data.seq_length + 1)) for corpus in corpora)


def prepare_data(
    data: DataConfig, tokenizer: Tokenizer, files: TokenizerConfig, vocab_size: int, cache: Path, *, show: bool
) -> PreparedData:
    """Check the files of a run, and encode those that are texts.

    Args:
        data: what is trained on.
        tokenizer: the model's.
        files: where the tokenizer is, and the chat template.
        vocab_size: rows of the model's vocabulary.
        cache: the folder for the tokens of texts.
        show: whether to show progress.

    Raises:
        DataError: a file is missing, unreadable or empty, a row of it is wrong, its tokens are not the model's, or
            nothing can be learned.
    """
    encoder = Encoder(tokenizer, end_of_document(tokenizer), _chat_template(files), files, vocab_size)

    def corpora(paths: Sequence[Path], weights: Sequence[float] | None) -> list[Corpus]:
        groups = [paths] if weights is None else [[path] for path in paths]
        return [open_corpus(group, data.column, data.document_end, encoder, cache, show=show) for group in groups]

    train = corpora(data.train, data.weights)
    valid = corpora(data.valid, data.valid_weights) if data.valid else []
    if data.split is not None:
        parts = [split_documents(data.split, len(corpus.documents)) for corpus in train]
        if not valid:
            valid = [corpus.part(part[1]) for corpus, part in zip(train, parts, strict=True) if part[1]]
        train = [corpus.part(part[0]) for corpus, part in zip(train, parts, strict=True)]
    for corpus in (*train, *valid):
        check_corpus(corpus, None if data.packed else data.seq_length + 1)
    return PreparedData(tuple(train), tuple(valid), encoder.eod)


def _chat_template(files: TokenizerConfig) -> ChatTemplate | None:
    try:
        return read_chat_template(files)
    except DataError as error:
        if error.code == "no_chat_template":
            return None
        raise
