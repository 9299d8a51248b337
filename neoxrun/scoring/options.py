"""What ``neoxrun score`` was asked for, on its way to the ranks. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from neoxrun.generation.provenance import Provenance
from neoxrun.scoring.documents import DocumentSource
from neoxrun.scoring.levels import Level
from neoxrun.scoring.measures import Totals


@dataclass(frozen=True)
class ScoreOptions:
    """The work of one run.

    Attributes:
        source: the documents.
        documents: how many there are.
        context: most tokens that a pass over a window reads.
        stride: tokens that each window after a document's first scores.
        top: how many of the most likely tokens to name at each position.
        level: the smallest unit that the records list.
        run: what the scores depend on besides the text, in short; every record has it.
        output: the file of records; None is stdout.
        made: what makes the records, for the file next to ``output``; None where there is none.
        finished: how many documents an earlier run has scored.
        keep: bytes of their records.
        totals: their sums.
        summary: print a summary at the end.
        as_json: print it as JSON.
        batch_size: most windows at a time in each replica; None: what fits.
    """

    source: DocumentSource
    documents: int
    context: int
    stride: int
    top: int
    level: Level
    run: str
    output: Path | None
    made: Provenance | None = None
    finished: int = 0
    keep: int = 0
    totals: Totals = field(default_factory=Totals)
    summary: bool = True
    as_json: bool = False
    batch_size: int | None = None
