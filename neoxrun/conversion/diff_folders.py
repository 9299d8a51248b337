"""Two folders compared from their names: their configurations, tensors and, on request, logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.load import read_vocab_rows
from neoxrun.checkpoint.stored import use_stored
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Settings
from neoxrun.conversion.diff import compare, diff_json, diff_text, open_side
from neoxrun.conversion.logits import PROMPTS, compare_logits, prompt_ids, stream_logits
from neoxrun.errors import NeoxrunError
from neoxrun.terminal.progress import Bar
from neoxrun.tokenizer import load_tokenizer

_SHOWN = 20


def diff_folders(
    folders: tuple[Path, Path],
    config: Sequence[str],
    overrides: Sequence[str],
    *,
    logits: bool,
    everything: bool,
    as_json: bool,
    allow_close: bool,
    show_progress: bool,
) -> tuple[str, bool]:
    """The comparison's text, for people or as JSON, and whether the folders are equal.

    Args:
        folders: the two.
        config: the configuration of those that do not say themselves what they are.
        overrides: ``key=value`` texts.
        logits: compare the logits on the fixed prompts, too.
        everything: list equal tensors, too.
        as_json: one JSON object.
        allow_close: take close numbers for equal.
        show_progress: whether to draw a bar.

    Raises:
        NeoxrunError: a folder cannot be read, or ``logits`` needs a configuration that there is not.
    """
    settings = [_settings(folder, config, overrides, needed=logits) for folder in folders]
    sides = [
        open_side(folder, None if one is None else one.model) for folder, one in zip(folders, settings, strict=True)
    ]
    count = len(sides[0].survey.tensors.keys() | sides[1].survey.tensors.keys())
    with Bar("comparing", count, "tensor", show=show_progress) as bar:
        differences = compare(sides[0], sides[1], bar.update)
    found = None
    if logits:
        assert settings[0] is not None
        assert settings[1] is not None
        found = _logits(folders, (settings[0], settings[1]))
    equal = all(one.state == "equal" or (allow_close and one.state == "close") for one in differences)
    if as_json:
        return json.dumps(diff_json(differences, found), indent=2) + "\n", equal
    return diff_text(differences, found, None if everything else _SHOWN), equal


def _settings(folder: Path, config: Sequence[str], overrides: Sequence[str], *, needed: bool) -> Settings | None:
    """What a folder says of itself, or the configuration that was named for those that do not."""
    try:
        return use_stored(load_settings([str(folder.absolute())], overrides, checkpoint=str(folder)))
    except NeoxrunError:
        if config:
            return load_settings(list(config), overrides, checkpoint=str(folder))
        if needed:
            raise
        return None


def _logits(folders: tuple[Path, Path], settings: tuple[Settings, Settings]) -> dict[str, Any]:
    checkpoints = [
        find_checkpoint(folder, one.model, one.iteration) for folder, one in zip(folders, settings, strict=True)
    ]
    rows = min(read_vocab_rows(found, one.model) for found, one in zip(checkpoints, settings, strict=True))
    tokenizer = next((one.tokenizer for one in settings if one.tokenizer.vocab_file is not None), None)
    encoded = [] if tokenizer is None else load_tokenizer(tokenizer).encode_all(list(PROMPTS))
    prompts = prompt_ids(encoded, rows, min(one.model.max_context for one in settings))
    sides = [stream_logits(found, one.model, prompts) for found, one in zip(checkpoints, settings, strict=True)]
    largest, same, positions = compare_logits(sides[0], sides[1])
    return {"largest_difference": largest, "same_most_likely_token": same, "positions": positions, "prompts": prompts}
