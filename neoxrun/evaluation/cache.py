"""Answers on disk, so that an interrupted run can resume where it stopped. No torch."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from neoxrun.errors import DataError

_APPLICATION: Final = 0x6E656F78  # SQLite keeps it in the file's header: the program that owns the file

SCORING_VERSION: Final = 2
"""Increase it with every change to the model's answers to the same request, so that older answers are not used."""


class AnswerCache:
    """A file of answers, each under the SHA-256 of its checkpoint and request.

    Several checkpoints may share it, and several runs at the same time, on any number of ranks. Answers are on disk
    when ``put`` returns, and no lock is held between calls. (Plain commits take a millisecond or two. SQLite's
    write-ahead log is faster, but does not work on network file systems.)

    Args:
        path: the file; created if it does not exist.
        fingerprint: of the checkpoint.

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
                raise sqlite3.DatabaseError("it belongs to another program")
            if not known:
                self._base.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._base.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT) WITHOUT ROWID")
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        except sqlite3.Error as error:
            raise DataError(
                f"{path} is not a cache of answers: {error}",
                code="bad_file",
                where=str(path),
                hint="Name another file with --cache; it will be created.",
            ) from error

    def key(self, kind: str, *parts: Any) -> bytes:
        """The key for the answer to a request; ``parts`` are all that it depends on, as JSON values."""
        return answer_key(self._fingerprint, kind, *parts)

    def get(self, key: bytes) -> Any:
        """The answer; None if there is none.

        Raises:
            DataError: the file is damaged.
        """
        try:
            row = self._base.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            return None if row is None else json.loads(row[0])
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise self._unusable(error) from error

    def put(self, answers: Iterable[tuple[bytes, Any]]) -> None:
        """Store answers under their keys.

        Raises:
            DataError: they cannot be written, for example because the disk is full.
        """
        rows = [(key, json.dumps(answer)) for key, answer in answers]
        try:
            with self._base:  # commits
                self._base.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Close the file."""
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
            hint="Name another file with --cache, in a folder that exists and can be written to; it will be created.",
        )


def answer_key(fingerprint: str, kind: str, *parts: Any) -> bytes:
    """The key for the answer of the checkpoint with a fingerprint; see ``AnswerCache.key``."""
    return hashlib.sha256(json.dumps([SCORING_VERSION, fingerprint, kind, *parts]).encode()).digest()


def check_cache(path: Path) -> None:
    """Check that a cache can be used, before the model is loaded.

    Raises:
        DataError: see ``AnswerCache``.
    """
    existed = path.exists()
    AnswerCache(path, "").close()
    if not existed:
        path.resolve().unlink()  # a link's target, and not the link, which is the user's
