"""The bytes of one file that have arrived so far, and what they are bytes of.

``.NAME.part`` holds them, ``.NAME.part.json`` says of which version of the file: its length and the server's marks. A
process that is killed at any moment leaves a pair that the next one goes on from.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path

from neoxrun.download.http import Answer
from neoxrun.download.remote import corrupt_path, part_path, remove_leftovers, shown_url, state_path
from neoxrun.download.trouble import Stopped
from neoxrun.errors import DataError

_CHUNK = 1 << 20
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota on this disk is used up",
    errno.EFBIG: "the file system does not take files of this size",
}


@dataclass(frozen=True)
class Version:
    """Which file the bytes are of.

    Attributes:
        url: the mirror, without credentials.
        length: bytes of the whole file; None where the server does not say.
        etag: the server's mark of this version, where it is a strong one.
        last_modified: the server's date of it, as sent.
        sha256: the checksum that the file was expected to have when it was begun.
    """

    url: str
    length: int | None
    etag: str | None
    last_modified: str | None
    sha256: str | None

    @classmethod
    def of(cls, answer: Answer, url: str, sha256: str | None) -> Version:
        """The version that an answer is about; ``url`` is the mirror's, before redirects."""
        length = answer.length
        if answer.status == 206:
            length = None if answer.content_range is None else answer.content_range[2]
        strong = answer.etag if answer.etag and answer.etag.startswith('"') else None
        return cls(shown_url(url), length, strong, answer.last_modified, sha256)

    def is_same(self, other: Version) -> bool:
        """Whether bytes of the one may be followed by bytes of the other.

        Where the checksum is known the end is proven anyway, and equal lengths will do between two mirrors. Otherwise
        the servers' marks must agree.
        """
        if self.length is not None and other.length is not None and self.length != other.length:
            return False
        if self.sha256 is not None and self.url != other.url:
            return True
        if self.etag is not None and other.etag is not None:
            return self.etag == other.etag
        if self.last_modified is not None and other.last_modified is not None:
            return self.last_modified == other.last_modified
        return self.sha256 is not None

    def condition(self, url: str) -> str | None:
        """What If-Range should say to a mirror: None where nothing is known to it, or needed."""
        if self.sha256 is not None and self.url != shown_url(url):
            return None
        return self.etag or self.last_modified


class Part:
    """The part file of ``path``, open for writing, with the checksum of what is in it.

    Raises:
        DataError: the disk refuses.
        Stopped: told to stop while reading what is there.
    """

    def __init__(self, path: Path, sha256: str | None, stop: threading.Event) -> None:
        self.path = path
        self.size = 0
        self.version: Version | None = None
        self._sha256 = sha256
        self._hash = hashlib.sha256()
        self._file: FileIO | None = None
        with _refusals(part_path(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _opened(part_path(path))
            try:
                self._take_up(stop)
            except BaseException:
                self._file.close()
                raise

    @property
    def is_whole(self) -> bool:
        """Whether every byte has arrived."""
        return self.version is not None and self.version.length == self.size

    def begin(self, version: Version) -> None:
        """Drop what is there; bytes of this version follow."""
        self.clear()
        with _refusals(self.path):
            text = json.dumps(asdict(version), indent=1)
            temporary = state_path(self.path).with_name(state_path(self.path).name + ".part")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(state_path(self.path))
        self.version = version

    def go_on(self, version: Version) -> None:
        """Bytes of this version follow, which is the same and may say more of it."""
        self.version = version

    def clear(self) -> None:
        """Drop what is there."""
        with _refusals(self.path):
            # The state goes first: without it a part counts as nothing.
            state_path(self.path).unlink(missing_ok=True)
            self._open.truncate(0)
            self._open.seek(0)
        self.size, self.version, self._hash = 0, None, hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Append, and add to the checksum."""
        with _refusals(self.path):
            rest = memoryview(chunk)
            while rest:
                count = self._open.write(rest)
                # At once: a disk that becomes full takes the first bytes of a chunk and refuses the others.
                self._hash.update(rest[:count])
                self.size += count
                rest = rest[count:]

    def finish(self) -> None:
        """The bytes that there are, are all: the server did not announce how many."""
        assert self.version is not None
        self.version = replace(self.version, length=self.size)

    def hexdigest(self) -> str:
        """SHA-256 of the bytes so far."""
        return self._hash.hexdigest()

    def publish(self) -> None:
        """Give the file its name, at once and whole, even if the power fails."""
        with _refusals(self.path):
            os.fsync(self._open.fileno())
            part_path(self.path).replace(self.path)
            remove_leftovers(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                # Some network file systems cannot do this to a folder, and need it less.
                with contextlib.suppress(OSError):
                    os.fsync(folder)
            finally:
                os.close(folder)
        self.close()

    def set_aside(self) -> Path:
        """Move the bytes out of the way, and be empty again; returns where they are now."""
        aside = corrupt_path(self.path)
        with _refusals(self.path):
            state_path(self.path).unlink(missing_ok=True)
            part_path(self.path).replace(aside)
            self._open.close()
            self._file = _opened(part_path(self.path))
        self.size, self.version, self._hash = 0, None, hashlib.sha256()
        return aside

    def close(self) -> None:
        """Leave the part as it is; an empty one is removed."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if self.size == 0:
            part_path(self.path).unlink(missing_ok=True)
            state_path(self.path).unlink(missing_ok=True)

    @property
    def _open(self) -> FileIO:
        assert self._file is not None, "the part has been closed"
        return self._file

    def _take_up(self, stop: threading.Event) -> None:
        """Go on from what an earlier process left, if it says what that is."""
        version = _read_version(state_path(self.path), self._sha256)
        there = os.fstat(self._open.fileno()).st_size
        if version is None or (version.length is not None and there > version.length):
            self.clear()
            return
        while chunk := self._open.read(_CHUNK):
            if stop.is_set():
                raise Stopped
            self._hash.update(chunk)
            self.size += len(chunk)
        self.version = version


def _opened(path: Path) -> FileIO:
    # Never through a link: whoever may write here could make us write elsewhere.
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")


def _read_version(path: Path, sha256: str | None) -> Version | None:
    """What a state file says; None where there is none, it is damaged, or another checksum is expected now."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = Version(**values)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (version.etag, version.last_modified, version.sha256)
    if not isinstance(version.url, str) or any(not isinstance(text, str | None) for text in texts):
        return None
    if not isinstance(version.length, int | None) or isinstance(version.length, bool):
        return None
    if version.sha256 is not None and sha256 is not None and version.sha256 != sha256:
        return None
    return replace(version, sha256=sha256)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the disk says becomes a message."""
    try:
        yield
    except OSError as error:
        said = _FULL.get(error.errno or 0)
        if said is None:
            raise DataError(
                f"the system says: {error.strerror or error}", code="unwritable_file", where=str(path)
            ) from error
        raise DataError(
            said,
            code="disk_full",
            where=str(path),
            hint="Make room and give the same command again: it goes on where it stopped.",
        ) from error
