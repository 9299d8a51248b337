"""The bytes of one file that have arrived so far, and the version of the file that they belong to.

``.NAME.part`` holds the bytes, ``.NAME.part.json`` the version: its length, and the server's marks for it. A process
that is killed at any moment leaves a pair from which the next one can resume.
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

from neoxrun.download.http import HttpResponse
from neoxrun.download.remote import corrupt_path, part_path, remove_leftovers, state_path
from neoxrun.download.trouble import Stopped
from neoxrun.download.urls import shown_url
from neoxrun.errors import DataError

_CHUNK = 1 << 20
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota on this disk is used up",
    errno.EFBIG: "the file system does not allow files of this size",
}


@dataclass(frozen=True)
class FileVersion:
    """The version of a file that some bytes belong to.

    Attributes:
        url: the mirror, without credentials.
        length: bytes of the whole file; None if the server does not say.
        etag: the server's ETag for this version, if it is a strong one.
        last_modified: the server's date for it, as sent.
        sha256: the checksum that was expected when the download of the file began.
    """

    url: str
    length: int | None
    etag: str | None
    last_modified: str | None
    sha256: str | None

    @classmethod
    def of_response(cls, response: HttpResponse, url: str, sha256: str | None) -> FileVersion:
        """The version that a response sends; ``url`` is the mirror's, before redirects."""
        length = response.length
        if response.status == 206:
            length = None if response.content_range is None else response.content_range[2]
        strong = response.etag if response.etag and response.etag.startswith('"') else None
        return cls(shown_url(url), length, strong, response.last_modified, sha256)

    def is_same(self, other: FileVersion) -> bool:
        """Whether bytes of the one version may be followed by bytes of the other.

        If the checksum is known, the complete file is checked anyway, and between two mirrors equal lengths are
        enough. Otherwise the servers' marks (ETag, date) must agree.
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
        """The value of If-Range for a mirror; None if the mirror has no mark for it, or it is not needed."""
        if self.sha256 is not None and self.url != shown_url(url):
            return None
        return self.etag or self.last_modified


class Part:
    """The part file of ``path``, open for writing, with the checksum of what is in it.

    Raises:
        DataError: the disk refuses to be read or written.
        Stopped: the download was told to stop while the existing bytes were read.
    """

    def __init__(self, path: Path, sha256: str | None, stop: threading.Event) -> None:
        self.path = path
        self.size = 0
        self.version: FileVersion | None = None
        self._sha256 = sha256
        self._hash = hashlib.sha256()
        self._file: FileIO | None = None
        with _refusals(part_path(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _opened(part_path(path))
            try:
                self._resume_earlier(stop)
            except BaseException:
                self._file.close()
                raise

    @property
    def is_whole(self) -> bool:
        """Whether every byte has arrived."""
        return self.version is not None and self.version.length == self.size

    def begin(self, version: FileVersion) -> None:
        """Drop the existing bytes; bytes of this version follow."""
        self.clear()
        with _refusals(self.path):
            text = json.dumps(asdict(version), indent=1)
            temporary = state_path(self.path).with_name(state_path(self.path).name + ".part")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(state_path(self.path))
        self.version = version

    def resume(self, version: FileVersion) -> None:
        """Bytes of this version follow: it is the same one, but more may be known about it now."""
        self.version = version

    def clear(self) -> None:
        """Drop the existing bytes."""
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
                # After each write: a disk that becomes full accepts the first bytes of a chunk and refuses the others.
                self._hash.update(rest[:count])
                self.size += count
                rest = rest[count:]

    def finish(self) -> None:
        """The bytes so far are the whole file, whose length the server did not announce."""
        assert self.version is not None
        self.version = replace(self.version, length=self.size)

    def hexdigest(self) -> str:
        """SHA-256 of the bytes so far."""
        return self._hash.hexdigest()

    def publish(self) -> None:
        """Give the complete file its name, in one step that also survives a power failure."""
        with _refusals(self.path):
            os.fsync(self._open.fileno())
            part_path(self.path).replace(self.path)
            remove_leftovers(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                # Some network file systems cannot sync a folder, and need it less.
                with contextlib.suppress(OSError):
                    os.fsync(folder)
            finally:
                os.close(folder)
        self.close()

    def set_aside(self) -> Path:
        """Move the bytes to another file, whose path is returned, and begin with an empty part."""
        aside = corrupt_path(self.path)
        with _refusals(self.path):
            state_path(self.path).unlink(missing_ok=True)
            part_path(self.path).replace(aside)
            self._open.close()
            self._file = _opened(part_path(self.path))
        self.size, self.version, self._hash = 0, None, hashlib.sha256()
        return aside

    def close(self) -> None:
        """Close the part, and keep it unless it is empty."""
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

    def _resume_earlier(self, stop: threading.Event) -> None:
        """Keep the bytes that an earlier process left, if their version is recorded."""
        version = _read_version(state_path(self.path), self._sha256)
        size = os.fstat(self._open.fileno()).st_size
        if version is None or (version.length is not None and size > version.length):
            self.clear()
            return
        while chunk := self._open.read(_CHUNK):
            if stop.is_set():
                raise Stopped
            self._hash.update(chunk)
            self.size += len(chunk)
        self.version = version


def _opened(path: Path) -> FileIO:
    # Never through a link: anyone who may write here could redirect the bytes to another file.
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")


def _read_version(path: Path, sha256: str | None) -> FileVersion | None:
    """The version in a state file; None if there is none, it is damaged, or another checksum is expected now."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = FileVersion(**values)
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
    """Turn the errors of the disk into messages."""
    try:
        yield
    except OSError as error:
        full = _FULL.get(error.errno or 0)
        if full is None:
            reason = error.strerror or error
            raise DataError(
                f"the download cannot be read or written on disk: {reason}",
                code="unwritable_file",
                where=str(path),
            ) from error
        hint = "Free some space and run the same command again: it resumes where it stopped."
        raise DataError(full, code="disk_full", where=str(path), hint=hint) from error
