"""The names that lm-eval knows (tasks, groups of tasks, and tags), found without importing it.

lm-eval needs ten seconds to read its 14,000 task files, and more to be imported. Only the lines that name something
are read here, in well under a second. What a name means follows lm-eval's own rules.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from neoxrun.config.yaml_source import read_yaml_values
from neoxrun.errors import ConfigError, DataError, UsageError
from neoxrun.terminal.words import did_you_mean

NameKind = Literal["task", "group", "tag"]

# A top-level key that names something, and the indented or listed lines that belong to it.
_NAMING = re.compile(
    rb"""^["']?(?:task|group|tag|class|include)["']?[ \t]*:.*\n?(?:[ \t#-].*\n?|\r?\n)*""", re.MULTILINE
)
# Keys that decide which data a task reads, and whether it is run at all; a group may set them for its members.
_DATA_KEYS = {
    "class",
    "custom_dataset",
    "dataset_kwargs",
    "dataset_name",
    "dataset_path",
    "fewshot_config",
    "fewshot_split",
    "num_fewshot",
    "test_split",
    "training_split",
    "unsafe_code",
    "validation_split",
}
_SKIPPED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}


@dataclass(frozen=True)
class TaskName:
    """A name of a task, a group or a tag.

    Attributes:
        kind: which of the three it names.
        path: the file that defines it; None for a tag.
        tasks: a tag's tasks, in order.
    """

    kind: NameKind
    path: Path | None
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Some names, and the tasks that they stand for.

    Attributes:
        names: the names that were asked for.
        known: these and the names of their members.
        tasks: each single task's name, and the part of its configuration that decides which data it reads.
    """

    names: tuple[str, ...]
    known: Mapping[str, TaskName]
    tasks: tuple[tuple[str, Mapping[str, Any]], ...]


class TaskCatalog:
    """Every name that lm-eval knows.

    Args:
        include_path: a folder with the user's task files; their names replace lm-eval's.

    Raises:
        UsageError: lm-eval is not installed, or ``include_path`` is not a folder.
        DataError: one of the user's task files cannot be read.
    """

    def __init__(self, include_path: Path | None = None) -> None:
        spec = importlib.util.find_spec("lm_eval")
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(
                "lm-eval is not installed",
                code="missing_package",
                hint="Reinstall neoxrun, which also installs lm-eval.",
            )
        self._known = _read_folder(Path(spec.submodule_search_locations[0]) / "tasks", users=False)
        if include_path is not None:
            if not include_path.is_dir():
                raise UsageError(
                    f"the folder of task files {include_path} does not exist",
                    code="invalid_value",
                    hint="Check --include-path.",
                )
            self._known |= _read_folder(include_path.absolute(), users=True)

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._known)

    def match(self, patterns: Iterable[str]) -> list[str]:
        """The names that patterns stand for, in their order, each once.

        A name stands for itself. A glob pattern stands for the tasks that it matches, and for groups and tags only
        if it matches no task, so that no task is named twice. Commas separate patterns, too.

        Raises:
            UsageError: a pattern matches no name, or there is no pattern.
        """
        found: dict[str, None] = {}
        for pattern in (part.strip() for text in patterns for part in text.split(",")):
            if not pattern:
                continue
            matching = [pattern] if pattern in self._known else self._glob(pattern)
            if not matching:
                hint = f"{did_you_mean(pattern.strip('*?'), self._known, 5)} `--tasks list` shows all names.".lstrip()
                raise UsageError(f"there is no task {pattern!r}", code="unknown_task", hint=hint)
            found |= dict.fromkeys(matching)
        if not found:
            raise UsageError("--tasks names no task", code="missing_option", hint="Name one, such as lambada_openai.")
        return list(found)

    def select(self, names: Iterable[str]) -> Selection:
        """The tasks that ``names`` stand for; the caller makes sure that all of them are known.

        Raises:
            DataError: a task file cannot be read.
        """
        names = tuple(names)
        known: dict[str, TaskName] = {}
        tasks = tuple(task for name in names for task in self._tasks(name, {}, known))
        return Selection(names, known, tasks)

    def _glob(self, pattern: str) -> list[str]:
        if not set(pattern) & set("*?["):
            return []
        matching = sorted(name for name in self._known if fnmatchcase(name, pattern))
        return [name for name in matching if self._known[name].kind == "task"] or matching

    def _tasks(
        self, name: str, given: Mapping[str, Any], known: dict[str, TaskName], inside: tuple[str, ...] = ()
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        entry = self._known[name]
        if name in inside:
            raise DataError(f"the group {name} contains itself", code="bad_task", where=str(entry.path))
        inside = (*inside, name)
        known[name] = entry
        if entry.path is None:
            for task in entry.tasks:
                yield from self._tasks(task, given, known, inside)
            return
        values = _configuration(entry.path)
        if entry.kind == "task":
            yield name, _data_keys(values) | dict(given)
        else:
            yield from self._members(name, values, given, known, inside)

    def _members(
        self,
        group: str,
        values: Mapping[str, Any],
        given: Mapping[str, Any],
        known: dict[str, TaskName],
        inside: tuple[str, ...],
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """A group's members: names, names with settings, or whole tasks and groups written out in its file."""
        shared = _data_keys(values) | dict(given)
        members = values.get("task")
        for member in members if isinstance(members, list) else []:
            values = member if isinstance(member, dict) else {"task": member}
            own = shared | _data_keys(values)
            if "group" in values and values["group"] not in self._known:
                yield from self._members(f"{group}::{values['group']}", values, shared, known, inside)
            elif (name := values.get("group", values.get("task"))) in self._known:
                yield from self._tasks(name, own, known, inside)
            else:
                yield f"{group}::{name}", own


def _data_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in _DATA_KEYS}


def _read_folder(root: Path, *, users: bool) -> dict[str, TaskName]:
    """The names in all task files below ``root``; if two are the same, the first counts, as in lm-eval."""
    found: dict[str, TaskName] = {}
    tagged: dict[str, list[str]] = {}
    cache: dict[str, dict[str, Any]] = {}
    for path in _task_files(root):
        try:
            values = _naming_values(path, cache)
        except DataError:
            if users:
                raise
            continue  # lm-eval skips its own files that it cannot read
        kind: NameKind = "group" if "group" in values and "class" not in values else "task"
        name = values.get(kind)
        if not isinstance(name, str) or name in found:
            continue
        found[name] = TaskName(kind, Path(path))
        tags = values.get("tag") or []
        for tag in tags if isinstance(tags, list) else [str(tags)]:
            if kind == "task":
                found.setdefault(tag, TaskName("tag", None))
                tagged.setdefault(tag, []).append(name)
    for tag, tasks in tagged.items():
        found[tag] = replace(found[tag], tasks=tuple(sorted(tasks)))
    return found


def _task_files(root: Path) -> list[str]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        found += [f"{folder}{os.sep}{name}" for name in files if name.endswith(".yaml")]
    return sorted(found)


def _naming_values(path: str, cache: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The values of a task file that name something, with those of the files that it includes."""
    path = os.path.normpath(path)
    if path not in cache:
        cache[path] = {}  # a file that includes itself ends here
        cache[path] = _with_included(path, b"".join(_NAMING.findall(_bytes(path))), lambda p: _naming_values(p, cache))
    return cache[path]


def _configuration(path: Path) -> dict[str, Any]:
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
    merged: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        merged |= read(str(Path(path).parent / name))
    return merged | values


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"the task file {path} cannot be read: {error.strerror}",
            code="unreadable_file",
            where=path,
        ) from None
