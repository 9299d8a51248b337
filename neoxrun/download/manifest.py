"""Records of downloads: ``neoxrun.manifest.json`` in the target folder, and lists of checksums from ``sha256sum``."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from neoxrun.config.names import MANIFEST_NAME
from neoxrun.download.remote import SHA256, Arrival, safe_name
from neoxrun.errors import DataError, NetworkError, writing_code

_FORMAT = 1
_WRITE_SECONDS = 2.0
# `sha256sum`: the digest, a space, a space or an asterisk, the name; and its --tag form.
_PLAIN_LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_TAGGED_LINE = re.compile(r"(\\?)SHA256 \((.+)\) = ([0-9a-fA-F]{64})")
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}


@dataclass(frozen=True)
class ManifestEntry:
    """One file.

    Attributes:
        size: bytes; None if only the checksum is known.
        sha256: lower-case hexadecimal.
        url: where it came from; None if that is not known.
    """

    size: int | None
    sha256: str
    url: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The files of a folder.

    Attributes:
        files: by name, a path below the folder with ``/``.
        model: the model's name, as the user gave it.
        hub: the repository on the Hugging Face hub that it came from.
        endpoint: the address of that hub.
        revision: the commit in that repository.
        mirrors: the web folders that it came from, if it did not come from a hub.
    """

    files: Mapping[str, ManifestEntry] = field(default_factory=dict)
    model: str | None = None
    hub: str | None = None
    endpoint: str | None = None
    revision: str | None = None
    mirrors: tuple[str, ...] = ()

    def with_arrivals(self, arrivals: Iterable[Arrival]) -> Manifest:
        """The same manifest with these files added; one that was already present keeps its recorded URL."""
        files = dict(self.files)
        for arrival in arrivals:
            before = files.get(arrival.name)
            same = before is not None and before.sha256 == arrival.sha256
            url = arrival.url or (before.url if before is not None and same else None)
            files[arrival.name] = ManifestEntry(arrival.size, arrival.sha256, url)
        return replace(self, files=files)


class Recorder:
    """Records files as they arrive in a folder, so that little is lost if the process ends early.

    Args:
        record: the manifest so far.
        folder: the folder of the files and of their manifest.
    """

    def __init__(self, record: Manifest, folder: Path) -> None:
        self.record = record
        self._folder = folder
        self._written = time.monotonic()

    def add(self, arrival: Arrival) -> None:
        """Record one more complete file.

        Raises:
            DataError: the manifest cannot be written.
        """
        self.record = self.record.with_arrivals([arrival])
        # Writing after each of thousands of small files would take too long.
        if time.monotonic() - self._written > _WRITE_SECONDS:
            write_manifest(self.record, self._folder)
            self._written = time.monotonic()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the rest; after an error only if a file was recorded, and a second error is not reported."""
        if error is None:
            write_manifest(self.record, self._folder)
        elif self.record.files and self._folder.is_dir():
            with suppress(DataError):
                write_manifest(self.record, self._folder)


def read_manifest(
    path: Path, hint: str = f"It should be a {MANIFEST_NAME}, or the output of `sha256sum FILES`."
) -> Manifest:
    """Read a ``neoxrun.manifest.json``, or the output of ``sha256sum``.

    Args:
        path: of the file.
        hint: what to do if it is neither.

    Raises:
        DataError: it cannot be read, or is neither.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the manifest {path.name} is not a UTF-8 text file",
            code="bad_file",
            where=str(path),
            hint=hint,
        ) from error
    except OSError as error:
        raise DataError(
            f"the manifest {path} cannot be read: {error.strerror}",
            code="unreadable_file",
            where=str(path),
        ) from error
    try:
        return _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, NetworkError) as error:
        reason = error.message if isinstance(error, NetworkError) else str(error)
        raise DataError(
            f"the manifest {path.name} cannot be used: {reason}",
            code="bad_file",
            where=str(path),
            hint=hint,
        ) from error


def read_folder_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder; None if there is none.

    Raises:
        DataError: the folder's manifest cannot be used.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        return None
    return read_manifest(path, "Delete it: the next download into this folder writes a new one.")


def write_manifest(manifest: Manifest, folder: Path) -> Path:
    """Write a manifest into its folder, completely or not at all.

    Raises:
        DataError: it cannot be written.
    """
    content: dict[str, Any] = {"format": _FORMAT}
    content |= {
        key: getattr(manifest, key)
        for key in ("model", "hub", "endpoint", "revision", "mirrors")
        if getattr(manifest, key)
    }
    content["files"] = {
        name: {key: value for key, value in asdict(entry).items() if value is not None}
        for name, entry in sorted(manifest.files.items())
    }
    path = folder / MANIFEST_NAME
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write a small file completely or not at all, even if the power fails.

    Raises:
        DataError: it cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=".neoxrun.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"{path} cannot be written: {error.strerror}",
            code=writing_code(error),
            where=str(path),
        ) from error


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    current = os.umask(0o077)
    os.umask(current)
    return current


def _from_json(text: str) -> Manifest:
    content = json.loads(text)
    if content.get("format") != _FORMAT:
        raise ValueError(f"its format is {content.get('format')!r}, and only format {_FORMAT} is supported")
    words = {key: content[key] for key in ("model", "hub", "endpoint", "revision") if key in content}
    mirrors = content.get("mirrors", [])
    if not isinstance(mirrors, list) or not all(isinstance(word, str) for word in [*words.values(), *mirrors]):
        raise ValueError("its model, hub, endpoint, revision or a mirror is not a string")
    if not isinstance(content.get("files"), dict):
        raise ValueError("it has no `files`")
    files = {safe_name(name): _entry(name, facts) for name, facts in content["files"].items()}
    return Manifest(files, mirrors=tuple(mirrors), **words)


def _entry(name: str, facts: Mapping[str, Any]) -> ManifestEntry:
    size, sha256, url = facts.get("size"), facts.get("sha256"), facts.get("url")
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise ValueError(f"the sha256 of {name} is not 64 hexadecimal digits")
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError(f"the size of {name} is not a number of bytes")
    if url is not None and not isinstance(url, str):
        raise ValueError(f"the url of {name} is not a string")
    return ManifestEntry(size, sha256.lower(), url)


def _from_lines(text: str) -> Manifest:
    files: dict[str, ManifestEntry] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        if match := _PLAIN_LINE.fullmatch(line):
            escaped, sha256, name = match.groups()
        elif match := _TAGGED_LINE.fullmatch(line):
            escaped, name, sha256 = match.groups()
        else:
            raise ValueError(f"line {number} is not a checksum followed by a name")
        if escaped:
            name = re.sub(r"\\[\\nr]", lambda found: _ESCAPES[found[0]], name)
        # As `sha256sum ./*` and `find . | xargs sha256sum` name files.
        name = name.removeprefix("./")
        if name.rpartition("/")[2] == MANIFEST_NAME:  # from `sha256sum *` in a downloaded folder
            continue
        safe_name(name)
        if name in files and files[name].sha256 != sha256.lower():
            raise ValueError(f"line {number} names {name} again, with a different checksum")
        files[name] = ManifestEntry(None, sha256.lower())
    if not files:
        raise ValueError("it is empty")
    return Manifest(files)
