"""Files to download: what is known of each before and after, which names are safe, and the names used meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neoxrun.config.names import MANIFEST_NAME
from neoxrun.errors import NetworkError
from neoxrun.terminal.words import printable

LOCK_NAME = ".neoxrun.lock"
"""A file in the target folder that the process writing there holds locked."""

CORRUPT = ".corrupt"
"""Ending of the name that a file with a wrong checksum is moved to."""

SHA256 = re.compile(r"[0-9a-fA-F]{64}")

_LONGEST_NAME = 200
"""Bytes of one part of a name. File systems allow 255; the names of the part file and its state are 11 longer."""

_LONGEST_PATH = 1000
_OURS = re.compile(rf"\..*\.part(\.json)?|\.neoxrun\..*|.*\.corrupt|{re.escape(MANIFEST_NAME)}", re.DOTALL)


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch.

    Attributes:
        name: path below the target folder, with ``/``; ``safe_name`` has accepted it.
        urls: its addresses, in the order to try.
        size: bytes, where they are known.
        sha256: lower-case hexadecimal, where it is known.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None


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


@dataclass(frozen=True)
class Arrival:
    """One file that is complete in the target folder.

    Attributes:
        name: as in ``RemoteFile``.
        path: where it is.
        size: bytes.
        sha256: of its contents, lower-case hexadecimal.
        url: where it came from, without credentials; None if it was already present.
        seconds: from the first request to its last byte on disk.
    """

    name: str
    path: Path
    size: int
    sha256: str
    url: str | None
    seconds: float


def safe_name(name: str) -> str:
    """The name itself, if a file of that name stays within its folder and is not one that neoxrun uses itself.

    Raises:
        NetworkError: the name leads elsewhere, or only an attack or a broken server would use it.
    """
    reason = _objection(name)
    if reason is not None:
        raise NetworkError(
            f"this file name cannot be used: {printable(name)} ({reason})",
            code="bad_answer",
            hint="Nothing was written. A server's list of files may only name files within one folder.",
        )
    return name


def _objection(name: str) -> str | None:
    """Why a name is refused; None if it is safe."""
    parts = name.split("/")
    if not name:
        return "it is empty"
    if not name.isprintable():
        return "it has characters that cannot be shown"
    if "\\" in name:
        return "it has a backslash"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "it is an absolute path"
    if ".." in parts:
        return "it leads out of the folder"
    if "." in parts or "" in parts:
        return "it has an empty part"
    if len(name.encode()) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        return "it is too long"
    if any(_OURS.fullmatch(part) for part in parts):
        return "neoxrun reserves such names for itself"
    return None


def part_path(path: Path) -> Path:
    """Where the bytes of ``path`` are kept until all have arrived."""
    return path.with_name(f".{path.name}.part")


def state_path(path: Path) -> Path:
    """A JSON file that describes the bytes in ``part_path``."""
    return path.with_name(f".{path.name}.part.json")


def corrupt_path(path: Path) -> Path:
    """Where the bytes that arrived for ``path`` are moved if they are wrong."""
    return path.with_name(path.name + CORRUPT)


def replaced_paths(path: Path) -> list[Path]:
    """Where wrong files found at ``path`` before a download were moved; the last path is free for the next one."""
    found = [path.with_name(f"{path.name}.replaced{CORRUPT}")]
    while found[-1].exists():
        found.append(path.with_name(f"{path.name}.replaced{len(found)}{CORRUPT}"))
    return found


def remove_leftovers(path: Path) -> None:
    """Remove what downloads of ``path`` have left next to it, now that it is present and correct."""
    for leftover in (part_path(path), state_path(path), corrupt_path(path), *replaced_paths(path)):
        leftover.unlink(missing_ok=True)
