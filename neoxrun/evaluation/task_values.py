"""Checks of a task file's values that need no lm-eval, so that they are made before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation.task_files import line_of
from neoxrun.terminal.words import listing

_SPLITS: Final = ("training_split", "validation_split", "test_split", "fewshot_split")


def check_values(name: str, values: Mapping[str, Any], file: Path | None) -> None:
    """Check the values that decide which data a task reads, and whether it is run at all.

    Args:
        name: of the task.
        values: by ``TaskCatalog.select``.
        file: the task's own; None if it is written out in a group's file.

    Raises:
        UsageError: the task is not for a text model, or runs code that the model writes.
        DataError: a value is wrong.
    """
    if values.get("unsafe_code"):
        refuse_code(name)
    if values.get("doc_to_image") is not None or values.get("doc_to_audio") is not None:
        refuse_media(name)
    shots = values.get("num_fewshot")
    if shots is not None and (type(shots) is not int or shots < 0):
        raise wrong_option(
            name, "num_fewshot", f"{shots!r} is not a whole number of 0 or more", file, "It counts the solved examples."
        )
    if not values.get("class"):
        _check_splits(name, values, file)


def _check_splits(name: str, values: Mapping[str, Any], file: Path | None) -> None:
    """Refuse a task that names no split to score, or one that is not among the files that it names."""
    if not values.get("test_split") and not values.get("validation_split"):
        raise wrong_option(
            name, "test_split", "it is missing, and so is validation_split", file, "Add the split to be scored."
        )
    options = values.get("dataset_kwargs")
    files = options.get("data_files") if isinstance(options, Mapping) else None
    if files is None:
        return
    present = sorted(map(str, files)) if isinstance(files, Mapping) else ["train"]  # what `datasets` calls it
    for option in _SPLITS:
        split = values.get(option)
        if isinstance(split, str) and re.sub(r"\[.*", "", split) not in present:
            raise wrong_option(
                name,
                option,
                f"{split} is not in its data_files, which have {listing(present)}",
                file,
                "Name the split as in data_files, as in `data_files: {test: test.jsonl}`.",
            )


def wrong_option(name: str, option: str, what: str, file: Path | None, hint: str | None = None) -> DataError:
    """The error for an option of a task file, with its line.

    Args:
        name: of the task.
        option: its key.
        what: what is wrong with it.
        file: the task's own; None if it is written out in a group's file.
        hint: what to do.
    """
    where = None if file is None else line_of(file, option)
    return DataError(f"{option} of the task {name}: {what}", code="bad_task", where=where, hint=hint)


def refuse_media(name: str) -> NoReturn:
    """Refuse a task with pictures or sound.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        f"{name} needs more than text, and these models only read text",
        code="unsupported_task",
        hint="Leave it out.",
    )


def refuse_code(name: str) -> NoReturn:
    """Refuse a task that runs code that the model writes.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        f"{name} runs code that the model writes, which neoxrun does not allow",
        code="unsupported_task",
        hint="Leave it out.",
    )
