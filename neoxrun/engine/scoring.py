"""Scoring given continuations: which tokens go through the network together. Pure bookkeeping, no tensors.

A row is one sequence of tokens: a trunk, and branches that each continue the trunk as if the others were not there.
Continuations of the same context share its trunk, which is so computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


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
        tokens: ids of the trunk and then of the branches.
        positions: each token's place in its own sequence.
        branches: 0 for the trunk's tokens, the branch's number from 1 for the others.
        asked: per request, the places in ``tokens`` whose next token is asked for, and these next tokens.
    """

    tokens: list[int]
    positions: list[int]
    branches: list[int]
    asked: list[tuple[list[int], list[int]]] = field(default_factory=list)


def pack(requests: Sequence[ScoreRequest], budget: int) -> list[tuple[Row, list[int]]]:
    """Rows for ``requests``, longest first, and the numbers of the requests that each answers.

    Args:
        requests: what is asked.
        budget: most tokens of a row with more than one branch.
    """
    by_context: dict[tuple[int, ...], list[int]] = {}
    for number, request in enumerate(requests):
        by_context.setdefault(request.context, []).append(number)
    rows = []
    for context, numbers in by_context.items():
        row, answers = _trunk(context), list[int]()
        for number in numbers:
            continuation = requests[number].continuation
            if answers and len(row.tokens) + len(continuation) - 1 > budget:
                rows.append((row, answers))
                row, answers = _trunk(context), list[int]()
            _grow(row, len(context), continuation, len(answers) + 1)
            answers.append(number)
        rows.append((row, answers))
    return sorted(rows, key=lambda pair: -len(pair[0].tokens))


def batches(rows: Iterable[tuple[Row, list[int]]], budget: int, most: int) -> Iterable[list[tuple[Row, list[int]]]]:
    """Runs of rows, each of at most ``most`` rows and, padding included, ``budget`` tokens (or a single row)."""
    batch: list[tuple[Row, list[int]]] = []
    width = 0
    for row in rows:
        width = max(width, len(row[0].tokens))
        if batch and (len(batch) == most or width * (len(batch) + 1) > budget):
            yield batch
            batch, width = [], len(row[0].tokens)
        batch.append(row)
    if batch:
        yield batch


def _trunk(context: tuple[int, ...]) -> Row:
    return Row(list(context), list(range(len(context))), [0] * len(context))


def _grow(row: Row, trunk: int, continuation: tuple[int, ...], branch: int) -> None:
    """Add a branch. Its last token is only asked for, so that it need not be computed."""
    start, count = len(row.tokens), len(continuation) - 1
    row.tokens += continuation[:-1]
    row.positions += range(trunk, trunk + count)
    row.branches += [branch] * count
    row.asked.append(([trunk - 1, *range(start, start + count)], list(continuation)))
