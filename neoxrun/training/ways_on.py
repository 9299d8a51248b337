"""Whether and from which checkpoint a run can continue, after something has gone wrong with it. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from neoxrun.checkpoint.content import read_safetensors_header, unreadable_file
from neoxrun.checkpoint.find import find_whole_checkpoint
from neoxrun.config.settings import Settings
from neoxrun.errors import CheckpointError
from neoxrun.training.folder import CHECKPOINT_NAME, whole_checkpoints

_STATE: Final = "training"


def state_file(checkpoint: Path, tp_rank: int) -> Path:
    """The file of a checkpoint with the optimizer's state of a tensor-parallel rank."""
    return checkpoint / _STATE / f"state-model_{tp_rank:02d}.safetensors"


def after_divergence(kept: Path | None) -> str:
    """From where training continues that has diverged.

    Args:
        kept: the newest checkpoint of the run; None: there is none.
    """
    if kept is None:
        return "No checkpoint was written before."
    older = _before(kept)
    other = "start over in another folder" if older is None else f"move that folder away, which leaves {older.name}"
    return f"{kept} is kept: --resume-anyway continues from it with other settings. If it diverges again, {other}."


def check_resumable(checkpoint: Path, settings: Settings, tp: int, *, adapter: bool) -> None:
    """Refuse a checkpoint that lacks files, or parts of them, which the ranks would find once everything is loaded.

    Args:
        checkpoint: its folder.
        settings: the model.
        tp: the run's tensor-parallel size.
        adapter: the run trains an adapter.

    Raises:
        CheckpointError: something is missing.
    """
    if not (checkpoint / _STATE).is_dir():
        run = checkpoint.parent
        raise CheckpointError(
            f"{checkpoint.name} has no folder {_STATE}, so that the state of the optimizer is missing",
            code="missing_shard",
            where=str(checkpoint),
            hint=after_damage(checkpoint)
            if adapter or _before(checkpoint) is not None
            else f"Train from its weights, in a new run: `neoxrun finetune {run} -o NEW`.",
        )
    with reading_checkpoint(checkpoint):
        for rank in range(tp):
            path = state_file(checkpoint, rank)
            try:
                read_safetensors_header(path)
            except OSError as error:
                raise unreadable_file(path, error) from error
        if not adapter:
            find_whole_checkpoint(replace(settings, checkpoint=checkpoint, iteration=None))


def after_damage(checkpoint: Path) -> str:
    """From where a run continues whose newest checkpoint is damaged."""
    if (older := _before(checkpoint)) is None:
        return "There is no older checkpoint: start over in another folder with --output DIR."
    return f"Move {checkpoint} elsewhere: --resume then continues from {older.name}."


@contextmanager
def reading_checkpoint(checkpoint: Path | None) -> Iterator[None]:
    """Around what reads a run's checkpoint, which nobody can download again: errors say how the run continues.

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
    """The newest checkpoint of the same run that is older and has its state; None where there is none."""
    match = CHECKPOINT_NAME.fullmatch(checkpoint.name)
    found = [path for step, path in whole_checkpoints(checkpoint.parent) if match is None or step < int(match[1])]
    older = [path for path in found if (path / _STATE).is_dir()]
    return older[-1] if older else None
