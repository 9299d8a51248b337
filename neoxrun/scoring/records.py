"""A document's record: its scores, those of its words and those of its tokens. No torch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import fsum
from typing import Any

from neoxrun.scoring.documents import Document
from neoxrun.scoring.levels import Level
from neoxrun.scoring.measures import measures, word_starts

_DIGITS = 6  # of fp32, and a third of the bytes of what Python would write


@dataclass
class TokenizedDocument:
    """A document on its way through the model.

    Attributes:
        document: the text.
        ids: of its tokens.
        starts: the character at which each begins.
        logprobs: natural logarithm of each token's probability, as far as it is known.
        top_ids, top_logprobs: the most likely tokens at each position, where they were asked for.
    """

    document: Document
    ids: Sequence[int]
    starts: Sequence[int]
    logprobs: list[float] = field(default_factory=list)
    top_ids: list[list[int]] = field(default_factory=list)
    top_logprobs: list[list[float]] = field(default_factory=list)


class RecordMaker:
    """Makes records.

    Args:
        spell: the text of a token.
        level: the smallest unit that a record lists.
        top: whether the most likely tokens were asked for.
        run: what the scores depend on besides the text.
        weights: ``random`` where no checkpoint was loaded, else None.
    """

    def __init__(self, spell: Callable[[int], str], *, level: Level, top: bool, run: str, weights: str | None) -> None:
        self._spell, self._level, self._top, self._run, self._weights = spell, level, top, run, weights
        self._known: dict[int, str] = {}

    def record(self, scored: TokenizedDocument) -> dict[str, Any]:
        """The record of a document, made of JSON values."""
        text = scored.document.text
        size = len(text.encode())
        starts = word_starts(text) if text else []
        logprob = fsum(scored.logprobs)
        record: dict[str, Any] = {
            "id": scored.document.id,
            "text": text,
            "tokens": len(scored.ids),
            "words": len(starts),
            "bytes": size,
            "logprob": logprob,
            **measures(logprob, tokens=len(scored.ids), words=len(starts), size=size),
            "run": self._run,
        }
        if self._weights is not None:
            record["weights"] = self._weights
        if self._level != "document":
            record |= _words(scored, starts)
        if self._level == "token":
            record["token_ids"] = list(scored.ids)
            record["token_texts"] = self._spelled(scored.ids)
            record["token_starts"] = list(scored.starts)
            record["token_logprobs"] = _rounded(scored.logprobs)
        if self._top:
            record["top_ids"] = scored.top_ids
            record["top_texts"] = [self._spelled(ids) for ids in scored.top_ids]
            record["top_logprobs"] = [_rounded(values) for values in scored.top_logprobs]
        return record

    def _spelled(self, ids: Sequence[int]) -> list[str]:
        known = self._known
        for token in ids:
            if token not in known:
                known[token] = self._spell(token)
        return [known[token] for token in ids]


def _words(scored: TokenizedDocument, starts: Sequence[int]) -> dict[str, list[Any]]:
    """The words, and the sum over the tokens that begin in each."""
    text = scored.document.text
    found: list[list[float]] = [[] for _ in starts]
    for start, logprob in zip(scored.starts, scored.logprobs, strict=True):
        # The last of those that begin here: an empty word at the beginning has no tokens.
        found[bisect_right(starts, start) - 1].append(logprob)
    ends = pairwise([*starts, len(text)])
    return {
        "word_texts": [text[start:end].strip() for start, end in ends],
        "word_logprobs": _rounded([fsum(values) for values in found]),
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, _DIGITS) + 0.0 for value in values]  # 0.0 for -0.0
