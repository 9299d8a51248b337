"""Scoring given continuations: which tokens go through the network together. Pure bookkeeping, no tensors.

A row is a tree of tokens, written depth first: sequences that begin alike share their beginning, which is so computed
once (a question with each of its answers, examples that stand before every question).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from neoxrun.config.limits import PREFILL_TOKENS

# A sequence joins a tree that holds at least an eighth of it: a longer row costs attention.
_LEAST_SHARED = 8
# Only attention pads, and takes at most a quarter more than the budget so.
_PADDED = 1.25
_MULTIPLE = 8


@dataclass(frozen=True)
class ScoreRequest:
    """How likely is ``continuation`` after ``context``? Token ids, at least one of each."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """The answer.

    Attributes:
        logprob: natural logarithm of the continuation's probability.
        greedy: every token of it is the likeliest at its place.
    """

    logprob: float
    greedy: bool


@dataclass
class Row:
    """Tokens that are computed together.

    Attributes:
        tokens: ids, a tree's, depth first.
        positions: each token's place in its own sequence.
        ends: the token at place ``p`` is seen by those at ``p`` to ``ends[p] - 1``, which are its branch of the tree.
        asked: per request, the places in ``tokens`` whose next token is asked for, and these next tokens.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    asked: list[tuple[list[int], list[int]]] = field(default_factory=list)


def width(rows: Sequence[Row]) -> int:
    """Places that attention has for each of the rows; its kernels take odd lengths more slowly."""
    longest = max(len(row.tokens) for row in rows)
    return _MULTIPLE * -(-longest // _MULTIPLE)


def pack(requests: Sequence[ScoreRequest], budget: int, most: int | None = None) -> list[tuple[Row, list[int]]]:
    """Rows for ``requests``, longest first, and the numbers of the requests that each answers.

    Args:
        requests: what is asked.
        budget: most tokens of a row with more than one sequence.
        most: most sequences of a row; None: no bound of their number.
    """
    # The last token of a continuation is only asked for, so that it need not be computed.
    sequences = [request.context + request.continuation[:-1] for request in requests]
    rows: list[tuple[Row, list[int]]] = []
    path: list[int] = []  # places of the sequence that was added last
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
        for place in path:
            row.ends[place] = len(row.tokens)
        row.asked.append((path[-len(requests[number].continuation) :], list(requests[number].continuation)))
        answered.append(number)
        last = sequence
    return sorted(rows, key=lambda pair: -len(pair[0].tokens))


def passes(
    requests: Sequence[ScoreRequest], budget: int, most: int | None = None
) -> Iterator[tuple[list[int], list[Row]]]:
    """What goes through the network together: the numbers of requests, and the rows that answer them in that order.

    Args:
        requests: what is asked.
        budget: most tokens of a pass, unless a single row has more.
        most: most sequences of a pass; None: no bound of their number.
    """
    numbers: list[int] = []
    rows: list[Row] = []
    tokens = 0
    for row, answered in pack(requests, PREFILL_TOKENS, most):
        many = most is not None and len(numbers) + len(answered) > most
        padded = width([rows[0] if rows else row]) * (len(rows) + 1)  # the first is the longest
        if rows and (many or tokens + len(row.tokens) > budget or padded > _PADDED * budget):
            yield numbers, rows
            numbers, rows, tokens = [], [], 0
        numbers = numbers + answered
        rows.append(row)
        tokens += len(row.tokens)
    if rows:
        yield numbers, rows
