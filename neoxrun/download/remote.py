"""Files that are somewhere else: what is known of them before they are fetched, and what it became."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from neoxrun.errors import NetworkError
from neoxrun.terminal.words import printable

LOCK_NAME = ".neoxrun.lock"
"""In the target folder; the process that writes there holds it."""

MANIFEST_NAME = "neoxrun.manifest.json"
"""In the target folder; what has arrived there."""

CORRUPT = ".corrupt"
"""What a file is called that arrived with a wrong checksum: its name and this."""

SHA256 = re.compile(r"[0-9a-fA-F]{64}")

_LONGEST_NAME = 200
"""Bytes of one part of a name. File systems take 255; the part file and its state add 11."""

_LONGEST_PATH = 1000
_OURS = re.compile(rf"\..*\.part(\.json)?|\.neoxrun\..*|.*\.corrupt|{re.escape(MANIFEST_NAME)}", re.DOTALL)


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch.

    Attributes:
        name: path below the target folder, with ``/``; ``safe_name`` has passed it.
        urls: where it is, in the order to try.
        size: bytes, where they are known.
        sha256: lower-case hexadecimal, where it is known.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Arrival:
    """One file that is there, whole.

    Attributes:
        name: as in ``RemoteFile``.
        path: where it lies.
        size: bytes.
        sha256: of its contents, lower-case hexadecimal.
        url: where it came from, without credentials; None if it was there already.
        seconds: from the first request to its last byte on disk.
    """

    name: str
    path: Path
    size: int
    sha256: str
    url: str | None
    seconds: float


@dataclass
class Underway:
    """A file that is being fetched; its own thread writes it, whoever draws the bars reads it.

    Attributes:
        name: of the file.
        total: bytes, where they are known.
        say: shows a line above the bars.
        done: bytes that have arrived.
    """

    name: str
    total: int | None
    say: Callable[[str], None]
    done: int = 0


def safe_name(name: str) -> str:
    """The name itself, if a file of that name stays within its folder and clashes with none of ours.

    Raises:
        NetworkError: a name that leads elsewhere or that only an attack or a broken server would have.
    """
    reason = _objection(name)
    if reason is not None:
        raise NetworkError(
            f"a file name that cannot be used ({reason}): {printable(name)}",
            code="bad_answer",
            hint="Nothing was written. A list of files from a server must name files inside one folder.",
        )
    return name


def _objection(name: str) -> str | None:
    """What speaks against a name; None where nothing does."""
    parts = name.split("/")
    if not name:
        return "it is empty"
    if not name.isprintable():
        return "it has characters that cannot be shown"
    if "\\" in name:
        return "it has a backslash"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "it is absolute"
    if ".." in parts:
        return "it leads out of the folder"
    if "." in parts or "" in parts:
        return "it has an empty part"
    if len(name.encode()) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        return "it is too long"
    if any(_OURS.fullmatch(part) for part in parts):
        return "neoxrun keeps such names for itself"
    return None


def part_path(path: Path) -> Path:
    """Where the bytes of ``path`` are until all have arrived."""
    return path.with_name(f".{path.name}.part")


def state_path(path: Path) -> Path:
    """What is known of the bytes in ``part_path``: JSON."""
    return path.with_name(f".{path.name}.part.json")


def corrupt_path(path: Path) -> Path:
    """Where what arrived for ``path`` is set aside when it is wrong."""
    return path.with_name(path.name + CORRUPT)


def replaced_paths(path: Path) -> list[Path]:
    """Where wrong files lie that were at ``path`` before a download; the last one is free for the next."""
    found = [path.with_name(f"{path.name}.replaced{CORRUPT}")]
    while found[-1].exists():
        found.append(path.with_name(f"{path.name}.replaced{len(found)}{CORRUPT}"))
    return found


def remove_leftovers(path: Path) -> None:
    """Remove what downloads of ``path`` have left beside it, now that it is there and right."""
    for leftover in (part_path(path), state_path(path), corrupt_path(path), *replaced_paths(path)):
        leftover.unlink(missing_ok=True)


def shown_url(url: str) -> str:
    """A URL for messages and manifests: no user, no password, and none of the query, where signatures are."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return printable(urlunsplit((parts.scheme, host, parts.path, "", "")))
    except ValueError:
        return printable(url.partition("?")[0].rpartition("@")[2])


def origin(url: str) -> str:
    """``scheme://host[:port]`` of a URL: whom a credential is for."""
    parts = urlsplit(url)
    return f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2].lower()}"
