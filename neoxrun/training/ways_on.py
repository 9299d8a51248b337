"""How a run can go on from which checkpoint, after something has gone wrong with it, in words. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neoxrun.errors import CheckpointError
from neoxrun.training.folder import CHECKPOINT_NAME, whole_checkpoints


def after_divergence(kept: Path | None) -> str:
    """From where training goes on that has diverged.

    Args:
        kept: the newest checkpoint of the run; None: there is none.
    """
    if kept is None:
        return "No checkpoint was written before."
    older = _before(kept)
    other = "start over in another folder" if older is None else f"move that folder away, which leaves {older.name}"
    return f"{kept} is kept: --resume-anyway continues from it with other settings. If it diverges again, {other}."


def after_damage(checkpoint: Path) -> str:
    """From where a run goes on whose newest checkpoint is damaged."""
    if (older := _before(checkpoint)) is None:
        return "There is no older checkpoint: start over in another folder with --output DIR."
    return f"Move {checkpoint} elsewhere: --resume then continues from {older.name}."


@contextmanager
def reading_checkpoint(checkpoint: Path | None) -> Iterator[None]:
    """Around what reads a run's checkpoint, which nobody can download again: errors say how the run goes on.

    Args:
        checkpoint: its folder; None: something else is read.
    """
    try:
        yield
    except CheckpointError as error:
        if checkpoint is not None and error.where is not None and Path(error.where).is_relative_to(checkpoint):
            error.hint = after_damage(checkpoint)
        raise


def _before(checkpoint: Path) -> Path | None:
    """The newest whole checkpoint of the same run that is older; None where there is none."""
    match = CHECKPOINT_NAME.fullmatch(checkpoint.name)
    older = [path for step, path in whole_checkpoints(checkpoint.parent) if match is None or step < int(match[1])]
    return older[-1] if older else None
