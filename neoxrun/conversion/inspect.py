"""`neoxrun inspect`: look at a folder of weights, and say what is in it."""

from __future__ import annotations

import json
from pathlib import Path

from neoxrun.conversion.described import describe
from neoxrun.conversion.refusals import note_refusals
from neoxrun.conversion.report import survey_json, survey_text
from neoxrun.conversion.survey import survey_folder
from neoxrun.terminal.progress import Bar


def inspect_folder(
    folder: Path, iteration: int | None, *, full: bool, tensors: bool, as_json: bool, show_progress: bool
) -> str:
    """What is in a folder, for people or as JSON.

    Args:
        folder: of weights.
        iteration: which ``global_step<N>`` of it; None: the one that ``latest`` names.
        full: look at every number.
        tensors: list every tensor, too.
        as_json: one JSON object.
        show_progress: whether to draw a bar.

    Raises:
        CheckpointError: there are no weights.
    """
    with Bar("reading", None, show=show_progress and full) as bar:
        survey = survey_folder(folder, iteration, full=full, progress=bar.update)
    named = folder.absolute()  # a bare name can be that of a shipped configuration, too
    note_refusals(survey, named)
    description = describe(survey, str(named))
    if as_json:
        content = survey_json(survey, description)
        if not tensors:
            del content["tensors"]
        return json.dumps(content, indent=2) + "\n"
    return survey_text(survey, description, tensors=tensors)
