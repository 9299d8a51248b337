"""Answers on disk, so that an interrupted run goes on where it stopped. No torch."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from neoxrun.errors import DataError

_APPLICATION: Final = 0x6E656F78  # SQLite keeps it in the file's head: whose file it is
_COMMIT_SECONDS: Final = 0.1


class AnswerCache:
    """A file of answers, each under the SHA-256 of checkpoint and request.

    Several checkpoints, and runs of any number of ranks, may share it. What is put is written to disk at once, or
    together with the next where they come fast.

    Args:
        path: the file; made if it is not there.
        fingerprint: of the checkpoint that answers.

    Raises:
        DataError: it cannot be read or written, or is another kind of file.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self._committed = time.monotonic()
        known = path.exists() and path.stat().st_size > 0
        try:
            self._base = sqlite3.connect(path, timeout=60)
            (application,) = self._base.execute("PRAGMA application_id").fetchone()
            if known and application != _APPLICATION:
                raise sqlite3.DatabaseError("another program's file")
            self._base.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._base.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT) WITHOUT ROWID")
            self._base.commit()
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{path} is not a file of answers: {error}",
                where=str(path),
                hint="Give another file with --cache; a new one is made.",
            ) from error

    def key(self, kind: str, *parts: Any) -> bytes:
        """What the answer to a request is found under; ``parts`` are all that it depends on, as JSON can hold it."""
        return hashlib.sha256(json.dumps([self._fingerprint, kind, *parts]).encode()).digest()

    def get(self, key: bytes) -> Any:
        """The answer; None where there is none."""
        row = self._base.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, answers: Iterable[tuple[bytes, Any]]) -> None:
        """Keep answers under their keys.

        Raises:
            DataError: the disk is full, for example.
        """
        rows = [(key, json.dumps(answer)) for key, answer in answers]
        try:
            self._base.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
            if time.monotonic() - self._committed > _COMMIT_SECONDS:
                self._base.commit()
                self._committed = time.monotonic()
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Write everything out."""
        try:
            self._base.commit()
            self._base.close()
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unusable(self, error: sqlite3.Error) -> DataError:
        return DataError(
            f"the cache {self._path} cannot be used: {error}",
            where=str(self._path),
            hint="Give another file with --cache, in a folder that exists and can be written.",
        )


def check(path: Path) -> None:
    """Fail now rather than after the model is loaded.

    Raises:
        DataError: see ``AnswerCache``.
    """
    existed = path.exists()
    AnswerCache(path, "").close()
    if not existed:
        path.unlink()
