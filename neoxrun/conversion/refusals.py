"""Why the commands that run models would refuse a folder that says what model it holds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import IGNORED, WORD_EMBEDDINGS, TensorKey, parameters
from neoxrun.conversion.surveyed import Survey
from neoxrun.errors import NeoxrunError
from neoxrun.terminal.words import listing
from neoxrun.tokenizer import load_tokenizer


def note_refusals(survey: Survey, folder: Path) -> None:
    """Add to what is odd: a configuration or a tokenizer that is missing or cannot be used, and tensors of others.

    Args:
        survey: of the folder.
        folder: its path.
    """
    try:
        settings = load_settings([str(folder)])
    except NeoxrunError as error:
        if error.code not in ("missing_configuration", "incomplete_configuration"):
            _note(survey, f"Its configuration cannot be used: {error.message}.")
        elif survey.kind == "huggingface":  # GPT-NeoX's files have theirs elsewhere, like those of the released 20B
            _note(survey, "There is no config.json, so that nothing says what model the weights are.")
        return
    for check in (partial(load_tokenizer, settings.tokenizer), partial(find_configured_checkpoint, settings)):
        try:
            check()
        except NeoxrunError as error:
            _note(survey, f"{_capitalised(error.message)}.")
    _note_tensors(survey, settings.model)


def _capitalised(message: str) -> str:
    """A message as a sentence; one that begins with the name of a file stays as it is."""
    return message if "." in message.split(maxsplit=1)[0] else message[0].upper() + message[1:]


def _note_tensors(survey: Survey, config: ModelConfig) -> None:
    rows = survey.shape(WORD_EMBEDDINGS.layer, WORD_EMBEDDINGS.name)
    if rows is None:
        return
    table = parameters(config, rows[0])
    groups = {
        "are missing": [key for key, parameter in table.items() if parameter.used and key not in survey.tensors],
        "do not belong to it": [key for key in survey.tensors if key not in table and key.name not in IGNORED],
        "have other shapes": [
            key
            for key, parameter in table.items()
            if key in survey.tensors and survey.shape(key.layer, key.name) not in (None, parameter.shape)
        ],
    }
    for what, keys in groups.items():
        if keys:
            _note(survey, f"Of the model that the configuration describes, these tensors {what}: {_names(keys)}.")


def _names(keys: list[TensorKey]) -> str:
    return listing([f"layer {key.layer:02d} {key.name}" for key in sorted(keys)])


def _note(survey: Survey, sentence: str) -> None:
    if sentence not in survey.odd:
        survey.odd.append(sentence)
