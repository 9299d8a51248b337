"""From log-probabilities to bits and perplexities, of a document and of all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from neoxrun.terminal.words import aligned_columns

_WHITE_SPACE: Final = re.compile(r"\s+")


def word_starts(text: str) -> list[int]:
    """Where each word of a text begins: words are what white space separates, and it belongs to the word after it.

    There are as many as lm-eval counts, ``len(re.split(r"\\s+", text))``: an empty one at the beginning of a text that
    begins with white space, and one of nothing else at the end of a text that ends with it.
    """
    return [0, *(match.start() for match in _WHITE_SPACE.finditer(text))]


def measures(logprob: float, *, tokens: int, words: int, size: int) -> dict[str, float | None]:
    """What a log-probability comes to, per token, word and byte; None where there is nothing to divide by.

    As lm-eval's ``word_perplexity``, ``byte_perplexity`` and ``bits_per_byte``: words and bytes are those of the text.

    Args:
        logprob: natural logarithm of the probability of the text.
        tokens, words, size: how many tokens, words and bytes (of UTF-8) the text has.
    """
    bits = 0.0 - logprob / math.log(2)  # not -0.0 where a text is certain
    return {
        "bits": bits,
        "bits_per_byte": bits / size if size else None,
        "perplexity": _perplexity(logprob, tokens),
        "word_perplexity": _perplexity(logprob, words),
        "byte_perplexity": _perplexity(logprob, size),
    }


def _perplexity(logprob: float, count: int) -> float | None:
    if not count:
        return None
    try:
        return math.exp(-logprob / count)
    except OverflowError:  # the words of a model that knows nothing
        return None


@dataclass
class Totals:
    """Sums over documents.

    Attributes:
        documents: how many there are.
        empty: how many of them have no text.
        tokens, words, size: how many tokens, words and bytes they have.
        logprob: natural logarithm of their probability.
    """

    documents: int = 0
    empty: int = 0
    tokens: int = 0
    words: int = 0
    size: int = 0
    logprob: float = 0.0

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a document's record."""
        self.documents += 1
        self.empty += not record["tokens"]
        self.tokens += record["tokens"]
        self.words += record["words"]
        self.size += record["bytes"]
        self.logprob += record["logprob"]

    def to_dict(self) -> dict[str, Any]:
        """The summary of a run."""
        return {
            "documents": self.documents,
            "empty_documents": self.empty,
            "tokens": self.tokens,
            "words": self.words,
            "bytes": self.size,
            "logprob": self.logprob,
            **measures(self.logprob, tokens=self.tokens, words=self.words, size=self.size),
        }

    def to_table(self) -> str:
        """The summary for people."""
        values = self.to_dict()
        rows = [("documents", f"{self.documents}{f', {self.empty} empty' if self.empty else ''}")]
        rows += [(name, str(values[name])) for name in ("tokens", "words", "bytes")]
        rows.append(("log-probability", f"{self.logprob:.2f} nats, {values['bits']:.2f} bits"))
        for key, name in (
            ("perplexity", "perplexity per token"),
            ("word_perplexity", "perplexity per word"),
            ("byte_perplexity", "perplexity per byte"),
            ("bits_per_byte", "bits per byte"),
        ):
            value = values[key]
            rows.append((name, "none" if value is None else f"{value:.4f}" if value < 1e6 else f"{value:.4g}"))
        return aligned_columns(rows, left=1, last_left=True)
