"""``metrics.jsonl``: a line for each step and for each evaluation of a run. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neoxrun.errors import DataError
from neoxrun.training.folder import METRICS, RunFolder

Record = Mapping[str, Any]
"""``step`` and ``loss``, ``lr``, ``grad_norm``, ``tokens``, ``seconds``, ``tokens_per_second`` and, where they are
known, ``mfu`` and ``loss_scale``; or ``step`` and ``eval_loss``. A number that is not finite is None."""


class JsonLines:
    """A file of JSON objects that each name a step, which grows by whole lines.

    Args:
        folder: of the run.
        name: of the file.
        done: steps of the run; what the file says of later ones, from a run that was interrupted, is taken out. With
            0 the run starts again, and so does the file.

    Raises:
        DataError: the system refuses.
    """

    def __init__(self, folder: RunFolder, name: str, done: int) -> None:
        self._folder, self._path = folder, folder.path / name
        kept = [record for record in read_lines(self._path) if 0 < done >= record["step"]]
        folder.write_text(name, "".join(map(_line, kept)))
        with folder.writing():
            self._file = self._path.open("a", encoding="utf-8")

    def add(self, record: Record) -> None:
        """Write one line, and hand it to the system.

        Raises:
            DataError: the system refuses.
        """
        with self._folder.writing():
            self._file.write(_line(record))
            self._file.flush()

    def close(self) -> None:
        """Close the file.

        Raises:
            DataError: the system refuses.
        """
        with self._folder.writing():
            self._file.close()


def read_metrics(run: Path) -> list[Record]:
    """What a run's folder says of its steps and evaluations, in order.

    Raises:
        DataError: it is not the folder of a run.
    """
    path = run / METRICS
    if not path.is_file():
        raise DataError(
            f"{run} is not the folder of a run: it has no {METRICS}",
            code="missing_file",
            where=str(path),
            hint="Name the folder that `neoxrun finetune` wrote to with --output.",
        )
    return list(read_lines(path))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines that name a step. A line that a full disk has cut is passed over.

    Raises:
        DataError: the file cannot be read.
    """
    if not path.is_file():
        return
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}",
            code="unreadable_file",
            where=str(path),
            hint="Check its permissions.",
        ) from error
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield record


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
