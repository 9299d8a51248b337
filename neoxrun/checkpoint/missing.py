"""Errors for weights that are missing. No torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from neoxrun.config.released import download_command
from neoxrun.errors import CheckpointError
from neoxrun.terminal.words import listing

OTHER_FOLDER: Final = "Name the folder that holds the checkpoint with --checkpoint DIR."
"""The hint for commands that take a configuration."""


def download_hint(folder: Path, otherwise: str = OTHER_FOLDER) -> str:
    """What to do about weights that ``folder`` lacks; ``otherwise`` if it is not named after a released model."""
    command = download_command(folder)
    if command is None:
        return otherwise
    return f"Get the weights with `{command}`, or name their folder with --checkpoint DIR."


def refuse_missing(folder: Path, missing: Collection[str]) -> None:
    """Refuse a checkpoint that lacks files.

    Raises:
        CheckpointError: ``missing``, the names of the files that ``folder`` lacks, is not empty.
    """
    if missing:
        count = "1 file is" if len(missing) == 1 else f"{len(missing)} files are"
        raise CheckpointError(
            f"{count} missing from the checkpoint: {listing([*missing])}",
            code="missing_shard",
            where=str(folder),
            hint=download_hint(folder, "Copy or download the missing files again."),
        )
