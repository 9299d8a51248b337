"""Task files: YAML that may include other YAML, as lm-eval reads it. No lm-eval."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neoxrun.config.yaml_source import read_yaml_values
from neoxrun.errors import ConfigError, DataError

# A top-level key that names something, and the indented or listed lines that belong to it.
_NAMING = re.compile(
    rb"""^["']?(?:task|group|tag|class|include)["']?[ \t]*:.*\n?(?:[ \t#-].*\n?|\r?\n)*""", re.MULTILINE
)
_SKIPPED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}


def paths_below(root: Path, *, users: bool) -> list[str]:
    """Every task file below a folder, sorted.

    Args:
        root: the folder.
        users: it is the user's own, so that nothing in it may be passed over.

    Raises:
        DataError: a folder below it cannot be listed, or a file is not a regular one.
    """

    def refuse(error: OSError) -> None:
        if users:
            raise _unreadable(str(error.filename), error)

    found = []
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        found += [f"{folder}{os.sep}{name}" for name in files if name.endswith(".yaml")]
    odd = next((path for path in found if users and Path(path).exists() and not Path(path).is_file()), None)
    if odd is not None:
        raise DataError(f"the task file {odd} is not a file", code="unreadable_file", where=odd)
    return sorted(found)


def naming_values(path: str, cache: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The values of a task file that name something, with those of the files that it includes."""
    path = os.path.normpath(path)
    if path not in cache:
        cache[path] = {}  # a file that includes itself ends here
        cache[path] = _with_included(path, b"".join(_NAMING.findall(_bytes(path))), lambda p: naming_values(p, cache))
    return cache[path]


def read_task_file(path: Path) -> dict[str, Any]:
    """All values of a task file, with those of the files that it includes."""
    seen: set[str] = set()

    def whole(name: str) -> dict[str, Any]:
        if (name := os.path.normpath(name)) in seen:
            raise DataError(f"the task file {name} includes itself", code="bad_task", where=name)
        seen.add(name)
        return _with_included(name, _bytes(name), whole)

    return whole(str(path))


def _with_included(path: str, data: bytes, read: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
    """The values of a file, added to those of the files that it includes, each of which ``read`` reads."""
    try:
        values = read_yaml_values(data) or {}
    except ConfigError as error:
        raise DataError(error.message, code="bad_task", where=f"{path}{error.where or ''}") from None
    if not isinstance(values, dict):
        raise DataError(
            "a task file must hold `option: value` pairs, and this one does not",
            code="bad_task",
            where=path,
        )
    included = values.pop("include", None) or []
    names = [included] if isinstance(included, str) else included
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"`include` must name files, not {included!r}", code="bad_task", where=path)
    merged: dict[str, Any] = {}
    for name in names:
        merged |= read(str(Path(path).parent / name))
    return merged | values


def line_of(path: Path, option: str) -> str:
    """``file:line`` where an option is set: in a task file, or else in one that it includes; the file if in neither."""
    waiting, seen = [path], set()
    while waiting:
        name = waiting.pop(0)
        if name in seen or not name.is_file():
            continue
        seen.add(name)
        data = name.read_bytes()
        if match := re.search(rb"^[\"']?%s[\"']?[ \t]*:" % re.escape(option.encode()), data, re.MULTILINE):
            return f"{name}:{data[: match.start()].count(10) + 1}"
        values = read_yaml_values(data)
        included = values.get("include") or [] if isinstance(values, dict) else []
        waiting += [name.parent / one for one in ([included] if isinstance(included, str) else included)]
    return str(path)


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> DataError:
    return DataError(
        f"the task file {path} cannot be read: {error.strerror}",
        code="unreadable_file",
        where=path,
        hint="Check its permissions, and --include-path.",
    )
