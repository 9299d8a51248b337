"""Scoring given continuations: which tokens go through the network together. Bookkeeping only, no tensors.

A row is a tree of tokens, in depth-first order: sequences that begin with the same tokens share them, so that these are
computed once (a question with each of its answers, or examples before every question).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from neoxrun.config.limits import PREFILL_TOKENS

# A sequence joins a tree only if it shares at least an eighth of its tokens: longer rows cost more attention.
_LEAST_SHARED = 8
# Attention, which alone pads rows, computes at most a quarter more positions than the budget.
_PADDED = 1.25
_MULTIPLE = 8


@dataclass(frozen=True)
class ScoreRequest:
    """How likely is ``continuation`` after ``context``? Both are token ids, at least one."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class TokenScores:
    """A continuation, token by token.

    Attributes:
        logprobs: natural logarithm of each token's probability.
        top_ids: ids of the most likely tokens at each position, the most likely first; empty if none were asked for.
        top_logprobs: their log-probabilities.
    """

    logprobs: list[float]
    top_ids: list[list[int]]
    top_logprobs: list[list[float]]


@dataclass(frozen=True)
class Scored:
    """The answer to a ScoreRequest.

    Attributes:
        logprob: natural logarithm of the continuation's probability.
        greedy: whether each of its tokens is the most likely one at its position.
        tokens: each token's share in it, where that was asked for.
    """

    logprob: float
    greedy: bool
    tokens: TokenScores | None = None


@dataclass
class Row:
    """Tokens that are computed together.

    Attributes:
        tokens: the token ids of a tree, depth first.
        positions: the position of each token in its sequence.
        ends: the tokens from index ``i`` to ``ends[i] - 1`` attend to token ``i``: they are its branch of the tree.
        asked: for each request, the indices in ``tokens`` from which a token is predicted, and the tokens to predict.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    asked: list[tuple[list[int], list[int]]] = field(default_factory=list)


def padded_width(rows: Sequence[Row]) -> int:
    """Length to which attention pads each of the rows; its kernels are slower at odd lengths."""
    longest = max(len(row.tokens) for row in rows)
    return _MULTIPLE * -(-longest // _MULTIPLE)


def pack_rows(requests: Sequence[ScoreRequest], budget: int, most: int | None = None) -> list[tuple[Row, list[int]]]:
    """Rows that answer ``requests``, longest first, each with the numbers of its requests.

    Args:
        requests: the requests.
        budget: most tokens of a row with more than one sequence.
        most: most sequences of a row; None: any number.
    """
    # The last token of a continuation is only predicted, so it is not computed.
    sequences = [request.context + request.continuation[:-1] for request in requests]
    rows: list[tuple[Row, list[int]]] = []
    path: list[int] = []  # indices of the last added sequence's tokens
    last: tuple[int, ...] = ()
    for number in sorted(range(len(requests)), key=sequences.__getitem__):
        sequence = sequences[number]
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(last, sequence, strict=False)))
        added = len(sequence) - shared
        full = rows and (len(rows[-1][1]) == most or len(rows[-1][0].tokens) + added > budget)
        if not rows or full or _LEAST_SHARED * shared < len(sequence):
            rows.append((Row(), []))
            path, shared = [], 0
        row, answered = rows[-1]
        start = len(row.tokens)
        path = [*path[:shared], *range(start, start + len(sequence) - shared)]
        row.tokens += sequence[shared:]
        row.positions += range(shared, len(sequence))
        row.ends += [0] * (len(sequence) - shared)
        for index in path:
            row.ends[index] = len(row.tokens)
        row.asked.append((path[-len(requests[number].continuation) :], list(requests[number].continuation)))
        answered.append(number)
        last = sequence
    return sorted(rows, key=lambda pair: -len(pair[0].tokens))


def scoring_passes(
    requests: Sequence[ScoreRequest], budget: int, most: int | None = None
) -> Iterator[tuple[list[int], list[Row]]]:
    """The passes that answer ``requests``: of each the numbers of its requests, and the rows that answer them in order.

    Args:
        requests: the requests.
        budget: most tokens of a pass, unless a single row has more.
        most: most sequences of a pass; None: any number.
    """
    numbers: list[int] = []
    rows: list[Row] = []
    tokens = 0
    for row, answered in pack_rows(requests, PREFILL_TOKENS, most):
        many = most is not None and len(numbers) + len(answered) > most
        padded = padded_width([rows[0] if rows else row]) * (len(rows) + 1)  # the first is the longest
        if rows and (many or tokens + len(row.tokens) > budget or padded > _PADDED * budget):
            yield numbers, rows
            numbers, rows, tokens = [], [], 0
        numbers = numbers + answered
        rows.append(row)
        tokens += len(row.tokens)
    if rows:
        yield numbers, rows
