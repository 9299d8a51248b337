"""From prepared documents to the rows of a run."""

from __future__ import annotations

from collections.abc import Sequence

from neoxrun.config.training import DataConfig
from neoxrun.training.data.packing import blended_rows, order_documents, pack
from neoxrun.training.data.prepare import PreparedData
from neoxrun.training.data.rows import BlendedRows, DocumentRows, PackedRows
from neoxrun.training.data.tokens import CorpusTokens
from neoxrun.training.rows import Rows


def build_rows(
    data: DataConfig, prepared: PreparedData, vocab_size: int, train_rows: int, valid_rows: int
) -> tuple[Rows, Rows | None]:
    """The rows that are trained on, and those that are evaluated.

    Args:
        data: as for ``prepare_data``.
        prepared: what that found.
        vocab_size: rows of the model's vocabulary.
        train_rows: how many rows of training data are needed; GPT-NeoX's ``train_iters * train_batch_size``.
        valid_rows: how many of evaluation data: those of an evaluation, if all evaluations see the same; in GPT-NeoX
            ``(train_iters // eval_interval + 1) * eval_iters * train_batch_size``. Both numbers decide how many epochs
            are shuffled together.

    Returns:
        As many rows as are needed of each; None for the second where there are no documents to evaluate on, or
        ``valid_rows`` is 0.

    Raises:
        DataError: later, rows that are read have ids that the model does not have.
    """
    train = [CorpusTokens(corpus, vocab_size) for corpus in prepared.train]
    valid = [CorpusTokens(corpus, vocab_size) for corpus in prepared.valid] if valid_rows else []
    builder = _Builder(data, prepared.eod)
    return (
        builder.rows(train, data.weights, train_rows),
        builder.rows(valid, data.valid_weights if data.valid else data.weights, valid_rows) if valid else None,
    )


class _Builder:
    """Makes rows of corpora."""

    def __init__(self, data: DataConfig, eod: int) -> None:
        self._data, self._eod = data, eod

    def rows(self, corpora: Sequence[CorpusTokens], weights: Sequence[float] | None, count: int) -> Rows:
        """``count`` rows of one corpus, or of several with weights."""
        if weights is None:
            return self._of_one(corpora[0], count, count)
        parts = [
            self._of_one(corpus, needed, None)
            for corpus, needed in zip(corpora, blended_rows(weights, count), strict=True)
        ]
        return BlendedRows(parts, weights, count)

    def _of_one(self, tokens: CorpusTokens, needed: int, count: int | None) -> Rows:
        """At least ``needed`` rows of a corpus; ``count``, or all that there are."""
        data, corpus = self._data, tokens.corpus
        if not data.packed:
            order = order_documents(corpus.alone(data.seq_length + 1), needed, data.seed)
            return DocumentRows(tokens, order, data.seq_length, self._eod)
        packing = pack(corpus.sizes, corpus.documents, needed, data.seq_length, data.seed)
        skipped = self._eod if data.eod_mask_loss else None
        return PackedRows(tokens, packing, skipped, len(packing.shuffled) if count is None else count)
