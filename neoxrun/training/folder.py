"""The folder of a run: what is whole in it at any moment, whatever ends the process. No torch.

A checkpoint grows in ``global_step<N>.writing`` and gets its name when all of it is on the disk; ``latest`` names it
after that. One that is no longer kept loses its name before its files. So a folder named ``global_step<N>`` is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neoxrun.errors import DataError, writing_code

SETTINGS: Final = "settings.json"
METRICS: Final = "metrics.jsonl"
LOG: Final = "log.jsonl"
SAMPLES: Final = "samples.jsonl"
PLOT: Final = "loss.png"
BEST: Final = "best"
CACHE: Final = "cache"
"""The folder of tokenized texts, which may be older than the run."""
WRITING: Final = ".writing"
"""The end of a name that something has until it is whole."""
EVALUATED: Final = "evaluated"
"""The name under which a checkpoint's facts have what its loss in evaluation was measured on."""
NONE_WRITTEN: Final = "No checkpoint has been written yet: the same command starts again."
"""The hint where a run ends that cannot be continued."""
CHECKPOINT_NAME: Final = re.compile(r"global_step(\d+)")
"""The names of checkpoints, whole ones of this run and those of GPT-NeoX."""
WRITTEN: Final = frozenset({METRICS, LOG, SAMPLES, PLOT, BEST})
"""Files of a run, next to ``SETTINGS``, which tells that there is one."""

_FACTS: Final = "neoxrun.checkpoint.json"
_LATEST: Final = "latest"
_REMOVING: Final = ".removing"


@dataclass(frozen=True)
class SavedCheckpoint:
    """A whole checkpoint.

    Attributes:
        step: optimizer steps that it has behind it.
        path: its folder.
        facts: what was noted with it, as JSON values.
    """

    step: int
    path: Path
    facts: Mapping[str, Any]

    @property
    def eval_loss(self) -> float | None:
        """The loss of the evaluation at this step; None where there was none."""
        loss = self.facts.get("eval_loss")
        return None if loss is None else float(loss)


class RunFolder:
    """A run's folder, which this process holds; ``opening.open_run_folder`` makes it.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def checkpoints(self) -> list[SavedCheckpoint]:
        """The whole checkpoints, from old to new.

        Raises:
            DataError: one of them cannot be read.
        """
        return saved_checkpoints(self.path)

    @property
    def last(self) -> SavedCheckpoint | None:
        """The newest checkpoint; None where there is none.

        Raises:
            DataError: one of them cannot be read.
        """
        return next(reversed(self.checkpoints()), None)

    def begin(self, step: int) -> Path:
        """A new, empty folder for a checkpoint to grow in.

        Raises:
            DataError: the system refuses.
        """
        path = self._writing(step)
        with self.writing():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        return path

    def publish(self, step: int, facts: Mapping[str, Any]) -> SavedCheckpoint:
        """The folder that ``begin`` made is whole: put it on the disk, and make it the latest checkpoint.

        Args:
            step: of the checkpoint.
            facts: what is noted with it, as JSON values; ``eval_loss``, where there is one, decides the best.

        Raises:
            DataError: the system refuses, or somebody else's checkpoint has its name; the one before stays the latest.
        """
        growing, path = self._writing(step), self.path / f"global_step{step}"
        if path.exists() and not (path / _FACTS).is_file():
            hint = f"Move it elsewhere. {continuing_hint(self.path)}"
            raise DataError(f"{path} is not of this run", code="existing_target", where=str(path), hint=hint)
        with self.writing():
            (growing / _FACTS).write_text(_facts_text({"step": step, **facts}), encoding="utf-8")
            _put_on_disk(growing)
            if path.exists():  # of a run that was interrupted between the name and what follows
                self._remove(path)
            growing.rename(path)
            _fsync(self.path)
            self._name(self.checkpoints())
        return SavedCheckpoint(step, path, {"step": step, **facts})

    def amend(self, step: int, facts: Mapping[str, Any]) -> None:
        """Note more with a whole checkpoint, for example what came of an evaluation after it.

        Raises:
            DataError: the system refuses.
        """
        path = self.path / f"global_step{step}" / _FACTS
        with self.writing():
            self._write(path, _facts_text({**read_json(path), **facts}))
            self._name(self.checkpoints())

    def abandon(self, step: int) -> None:
        """Remove what ``begin`` made, after an error."""
        shutil.rmtree(self._writing(step), ignore_errors=True)

    def prune(self, keep: int | None) -> None:
        """Remove all checkpoints but the ``keep`` newest and the best; None removes none.

        Raises:
            DataError: the system refuses.
        """
        if keep is None:
            return
        found = self.checkpoints()
        kept = {saved.step for saved in found[-max(1, keep) :]}
        if (best := _best(found)) is not None:
            kept.add(best.step)
        with self.writing():
            for saved in found:
                if saved.step not in kept:
                    self._remove(saved.path)

    def write_text(self, name: str, text: str) -> None:
        """Write a file, whole or not at all.

        Raises:
            DataError: the system refuses.
        """
        with self.writing():
            self._write(self.path / name, text)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around whatever writes into the folder.

        Raises:
            DataError: the system refuses.
        """
        try:
            yield
        except OSError as error:
            raise unwritable_run(error, self.path) from error

    def clean(self) -> None:
        """Remove what a process that was killed has left, and have ``latest`` and ``best`` name the right ones."""
        with self.writing():
            for path in self.path.glob("global_step*"):
                if path.name.endswith((WRITING, _REMOVING)):
                    shutil.rmtree(path)
            self._name(self.checkpoints())

    def _name(self, found: list[SavedCheckpoint]) -> None:
        if found:
            self._write(self.path / _LATEST, found[-1].path.name)
        if (best := _best(found)) is not None:
            self._write(self.path / BEST, best.path.name)

    def _writing(self, step: int) -> Path:
        return self.path / f"global_step{step}{WRITING}"

    def _remove(self, path: Path) -> None:
        gone = path.with_name(f"{path.name}{_REMOVING}")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        growing = path.with_name(f"{path.name}{WRITING}")
        with growing.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        growing.replace(path)
        _fsync(path.parent)


def saved_checkpoints(folder: Path) -> list[SavedCheckpoint]:
    """The whole checkpoints of a run's folder, from old to new.

    Raises:
        DataError: one of them cannot be read.
    """
    return [SavedCheckpoint(step, path, read_json(path / _FACTS)) for step, path in whole_checkpoints(folder)]


def continuing_hint(folder: Path) -> str:
    """From where the run in a folder, which need not exist, can be continued after whatever has ended it."""
    found = whole_checkpoints(folder)
    return f"{found[-1][1]} is whole: --resume continues from it." if found else NONE_WRITTEN


def unwritable_run(error: OSError, folder: Path) -> DataError:
    """The error for a run's folder that the system does not let be written."""
    full = writing_code(error) == "disk_full"
    cure = "Make room or name a folder on another disk." if full else "Check the path and its permissions."
    return DataError(
        f"the run's folder cannot be written: {error.strerror or error}",
        code=writing_code(error),
        where=str(error.filename or folder),
        hint=f"{cure} {continuing_hint(folder)}",
    )


def whole_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The step and the folder of each whole checkpoint, from old to new."""
    found = [
        (CHECKPOINT_NAME.fullmatch(path.name), path)
        for path in folder.glob("global_step*")
        if (path / _FACTS).is_file()
    ]
    return sorted((int(match[1]), path) for match, path in found if match is not None)


def _facts_text(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, indent=1) + "\n"


def _best(found: list[SavedCheckpoint]) -> SavedCheckpoint | None:
    """The checkpoint with the lowest loss in evaluation, the first of equal ones.

    Those count that were measured on what the last one was measured on: a run may have been continued with other data.
    """
    measured = [(saved.eval_loss, saved.step, saved) for saved in found if saved.eval_loss is not None]
    alike = [entry for entry in measured if entry[2].facts.get(EVALUATED) == measured[-1][2].facts.get(EVALUATED)]
    return min(alike, key=lambda entry: entry[:2])[2] if alike else None


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file of a run.

    Raises:
        DataError: it is damaged.
    """
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise DataError(
            f"{path} is not what neoxrun writes there",
            code="bad_file",
            where=str(path),
            hint=f"Move {path.parent} elsewhere: the run then continues from another checkpoint, or from its start."
            if path.name == _FACTS
            else "Copy the run's folder again, or start over in another one with --output DIR.",
        )
    return values


def _put_on_disk(folder: Path) -> None:
    """Have the system put every file and folder below ``folder`` on the disk."""
    for path in [*folder.rglob("*"), folder]:
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
