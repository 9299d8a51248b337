"""Answers on disk, so that an interrupted run goes on where it stopped. No torch."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from neoxrun.errors import DataError

_APPLICATION: Final = 0x6E656F78  # SQLite keeps it in the file's head: whose file it is

SCORING: Final = 1
"""To be raised by whoever changes what the model answers to the same request: older answers are not served then."""


class AnswerCache:
    """A file of answers, each under the SHA-256 of checkpoint and request.

    Several checkpoints, and runs of any number of ranks, also at the same time, may share it. What is put is on disk
    when ``put`` returns, and no lock is held between calls. (Plain commits, a millisecond or two: SQLite's write-ahead
    log is faster, but does not work on network file systems.)

    Args:
        path: the file; made if it is not there.
        fingerprint: of the checkpoint that answers.

    Raises:
        DataError: it cannot be read or written, or is another kind of file.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        known = path.exists() and path.stat().st_size > 0
        try:
            self._base = sqlite3.connect(path, timeout=60)
            (application,) = self._base.execute("PRAGMA application_id").fetchone()
            if known and application != _APPLICATION:
                raise sqlite3.DatabaseError("another program's file")
            if not known:
                self._base.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._base.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT) WITHOUT ROWID")
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        except sqlite3.Error as error:
            raise DataError(
                f"{path} is not a file of answers: {error}",
                code="bad_file",
                where=str(path),
                hint="Give another file with --cache; a new one is made.",
            ) from error

    def key(self, kind: str, *parts: Any) -> bytes:
        """What the answer to a request is found under; ``parts`` are all that it depends on, as JSON can hold it."""
        return hashlib.sha256(json.dumps([SCORING, self._fingerprint, kind, *parts]).encode()).digest()

    def get(self, key: bytes) -> Any:
        """The answer; None where there is none.

        Raises:
            DataError: the file is damaged.
        """
        try:
            row = self._base.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            return None if row is None else json.loads(row[0])
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise self._unusable(error) from error

    def put(self, answers: Iterable[tuple[bytes, Any]]) -> None:
        """Keep answers under their keys.

        Raises:
            DataError: the disk is full, for example.
        """
        rows = [(key, json.dumps(answer)) for key, answer in answers]
        try:
            with self._base:  # commits
                self._base.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unusable(self, error: Exception) -> DataError:
        return DataError(
            f"the cache {self._path} cannot be used: {error}",
            code="bad_file",
            where=str(self._path),
            hint="Give another file with --cache, in a folder that exists and can be written; a new one is made.",
        )


def check(path: Path) -> None:
    """Fail now rather than after the model is loaded.

    Raises:
        DataError: see ``AnswerCache``.
    """
    existed = path.exists()
    AnswerCache(path, "").close()
    if not existed:
        path.resolve().unlink()  # of a link its target: the link is the user's
