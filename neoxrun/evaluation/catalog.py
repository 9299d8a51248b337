"""The names that lm-eval knows (tasks, groups of tasks, and tags), found without importing it.

lm-eval needs ten seconds to read its 14,000 task files, and more to be imported. Only the lines that name something
are read here, in well under a second. What a name means follows lm-eval's own rules.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation import task_files
from neoxrun.terminal.log import log
from neoxrun.terminal.words import did_you_mean

NameKind = Literal["task", "group", "tag"]

# Keys that decide which data a task reads, and whether it is run at all; a group may set them for its members.
_DATA_KEYS = {
    "class",
    "custom_dataset",
    "dataset_kwargs",
    "dataset_name",
    "dataset_path",
    "doc_to_audio",
    "doc_to_image",
    "fewshot_config",
    "fewshot_split",
    "num_fewshot",
    "test_split",
    "training_split",
    "unsafe_code",
    "validation_split",
}


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

    def count(self, patterns: Iterable[str]) -> int:
        """How many tasks patterns stand for; see ``match`` and ``select``."""
        return len(self.select(self.match(patterns)).tasks)

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
        values = task_files.read_task_file(entry.path)
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
    for path in task_files.paths_below(root, users=users):
        try:
            values = task_files.naming_values(path, cache)
            if users and not values.keys() & {"class", "group", "task"}:
                values = _read_nameless(Path(path))
        except DataError:
            if users:
                raise
            continue  # lm-eval skips its own files that it cannot read
        kind: NameKind = "group" if "group" in values and "class" not in values else "task"
        name, tags = values.get(kind), values.get("tag") or []
        tags = tags if isinstance(tags, list) else [str(tags)]
        if users:
            _check_names(path, kind, name, tags)
        if not isinstance(name, str) or name in found:
            continue
        found[name] = TaskName(kind, Path(path))
        for tag in tags:
            if kind == "task":
                found.setdefault(tag, TaskName("tag", None))
                tagged.setdefault(tag, []).append(name)
    for tag, tasks in tagged.items():
        found[tag] = replace(found[tag], tasks=tuple(sorted(tasks)))
    return found


def _read_nameless(path: Path) -> dict[str, Any]:
    """All values of a file of the user's in which no name was found: a template, or one that is not to be passed over.

    Raises:
        DataError: it cannot be read.
    """
    values = task_files.read_task_file(path)
    if not values:
        log.warning(f"the task file {path} is empty: it defines no task")
    return values


def _check_names(path: str, kind: NameKind, name: Any, tags: list[Any]) -> None:
    """Refuse what lm-eval would pass over, or fail on."""
    odd = name if isinstance(name, int | float) else next((tag for tag in tags if not isinstance(tag, str)), None)
    if odd is not None:
        raise DataError(
            f"{odd!r} is not the name of a {kind if odd is name else 'tag'}: names are texts",
            code="bad_task",
            where=path,
            hint="Put it into quotes.",
        )
