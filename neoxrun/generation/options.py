"""What ``neoxrun generate`` was asked for, on its way to the ranks. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neoxrun.config.sampling import SamplingParams
from neoxrun.generation.prompts import Prompt
from neoxrun.generation.provenance import Provenance

Truncate = Literal["left", "right"]


@dataclass(frozen=True)
class GenerateOptions:
    """The work of one run.

    Attributes:
        prompts: answers to generate, without those that an earlier run has finished.
        finished: how many answers the earlier run has finished.
        output: the file of records; None is stdout.
        plain_text: write the text alone instead of records, as it comes (stdout).
        keep_partial: after Ctrl-C, the answers in progress are written, too.
        resume: keep the records that ``output`` holds.
        made: what makes the records, for the file next to ``output``; None where there is none.
        batch_size: most sequences at a time; None: what fits.
        truncate: what to do with prompts that are too long.
        dialogue: ask for prompts instead, with these parameters; ``prompt_end`` ends one.
        keep_history: add the prompts of a dialogue to the user's file of earlier ones.
    """

    prompts: list[Prompt]
    finished: int = 0
    output: Path | None = None
    plain_text: bool = False
    keep_partial: bool = False
    resume: bool = False
    made: Provenance | None = None
    batch_size: int | None = None
    truncate: Truncate | None = None
    dialogue: SamplingParams | None = None
    prompt_end: str = "\n"
    keep_history: bool = True
