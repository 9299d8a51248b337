"""What the leader of a replica tells all its ranks to compute. No tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neoxrun.config.sampling import SamplingParams


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of one sequence in a step.

    Attributes:
        row: of the sequence, in the tables that every rank keeps.
        start: position of the first token.
        ids: the tokens; none where it is the one token that the row's last step chose, which no host has read yet.
        pages: what the row gets after the pages that it has.
        sampled: whether a token is chosen after the last one.
        draw: the uniform number by which it is chosen.
    """

    row: int
    start: int
    ids: Sequence[int]
    pages: Sequence[int] = ()
    sampled: bool = False
    draw: float = 0.0

    @property
    def count(self) -> int:
        """Tokens in the span."""
        return len(self.ids) or 1


@dataclass(frozen=True)
class Admission:
    """A sequence enters a row, whose pages are these; the first ones hold its beginning already.

    Attributes:
        row: that row.
        prompt: the sequence's ids, for penalties.
        written: how many of the ids at the end of ``prompt`` are the sequence's own output.
        params: how to sample.
        pages: pages that hold the first positions.
        copied: a page, and how many of its first positions are to be copied into the row's first page, once all of the
            step's own keys and values are stored; in the order of the admissions, since one may copy from another.
    """

    row: int
    prompt: Sequence[int]
    written: int
    params: SamplingParams
    pages: Sequence[int]
    copied: tuple[int, int] | None = None


@dataclass(frozen=True)
class Step:
    """One pass over the network.

    Attributes:
        spans: single tokens first.
        admitted: sequences whose first span is in this step.
    """

    spans: Sequence[Span]
    admitted: Sequence[Admission] = ()
