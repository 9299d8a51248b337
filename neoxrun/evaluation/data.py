"""lm-eval's tasks with their documents, from the user's data folder or else from the hub.

lm-eval and the tasks' configurations are not changed: only ``datasets.load_dataset`` is replaced while the tasks are
built, by one that reads the local files. lm-eval and ``datasets`` take seconds to import; only ``load_tasks`` does so.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxrun.errors import DataError, NeoxrunError, UsageError
from neoxrun.evaluation import hub, local_data
from neoxrun.evaluation.catalog import TaskCatalog
from neoxrun.evaluation.data_files import damaged_files, local_files, texts_in
from neoxrun.evaluation.find import FoundTasks, TaskData, fetch_hint, fewshot_count, find_tasks
from neoxrun.evaluation.local_data import default_data_dir
from neoxrun.evaluation.published_data import DatasetName
from neoxrun.evaluation.task_faults import find_fault, task_of

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

_NOT_PERMITTED = (errno.EACCES, errno.EPERM, errno.EROFS)
FIELDS_HINT = "Compare the fields of its documents with those that its task file uses, or with the hub's."

__all__ = [
    "FIELDS_HINT",
    "FoundTasks",
    "PreparedTasks",
    "default_data_dir",
    "find_tasks",
    "load_tasks",
    "prepare_tasks",
    "task_names",
]


@dataclass(frozen=True)
class PreparedTasks:
    """Tasks that can be run.

    Attributes:
        task_dict: the tasks in the form that ``lm_eval.evaluator.evaluate`` accepts.
        sources: for each data set where it came from, for the report: ``from``, ``tasks`` (name and scored split),
            for local files ``splits`` with the number of documents, paths, SHA-256 and whether they are the published
            ones (null: not known), and for the hub its ``revision``.
    """

    task_dict: dict[str, Any]
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)


def task_names(include_path: Path | None = None) -> list[str]:
    """Every name that lm-eval knows: tasks, groups and tags."""
    return TaskCatalog(include_path).names


def prepare_tasks(
    task_names: list[str], data_dir: Path, *, include_path: Path | None = None, num_fewshot: int | None = None
) -> PreparedTasks:
    """``find_tasks`` and ``load_tasks`` in one."""
    return load_tasks(find_tasks(task_names, data_dir, include_path=include_path, num_fewshot=num_fewshot))


def load_tasks(found: FoundTasks) -> PreparedTasks:
    """Build lm-eval's tasks, with ``num_fewshot`` set in them.

    If the hub is not needed or does not respond, this process does not use it from now on.

    Raises:
        DataError: a task cannot be built, or its data cannot be loaded.
        UsageError: a task is asked for in two ways that lm-eval cannot tell apart.
    """
    if found.offline is not None:
        hub.go_offline()
    from neoxrun.evaluation.task_options import (  # lm-eval takes seconds to import
        check_group,
        check_metrics,
        check_options,
    )

    for name, entry in found.known.items():
        if entry.path is not None:
            check = check_options if entry.kind == "task" else check_group
            check(name, entry.path)
    manager = _task_manager(found)
    sources: dict[str, dict[str, Any]] = {}
    parts: list[Any] = []
    with _answered_from(found, sources):
        for name in found.names:
            parts += _built(manager, name, found)
    try:
        task_dict: dict[str, Any] = dict(manager.load(parts))
    except ValueError as error:
        raise UsageError(
            f"a task is named twice: {error}",
            code="conflicting_options",
            hint="Name either the group or the task, not both.",
        ) from None
    if not task_dict["tasks"]:
        raise DataError(
            f"there are no tasks in {', '.join(found.names)}",
            code="bad_task",
            hint="Check the list of tasks in the group's file.",
        )
    for name, task in task_dict["tasks"].items():
        check_metrics(name, task, found.known[name].path if name in found.known else None)
        task.set_config(key="num_fewshot", value=fewshot_count(task.get_config("num_fewshot"), found.num_fewshot))
    return PreparedTasks(task_dict, sources)


def _task_manager(found: FoundTasks) -> TaskManager:
    """lm-eval's own manager, with the names from the catalog, so that it does not read all task files again."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Entry, Kind

    manager = TaskManager(include_defaults=False)
    for name, entry in found.known.items():
        manager.task_index[name] = Entry(name, Kind[entry.kind.upper()], entry.path, tags=set(entry.tasks))
    return manager


def _built(manager: TaskManager, name: str, found: FoundTasks) -> list[Any]:
    """The tasks or the group of one name."""
    try:
        loaded = manager.load([name])
    except NeoxrunError:
        raise
    except Exception as error:  # a task's code may raise anything
        split = error.args[0] if isinstance(error, KeyError) and error.args else None
        if split is not None and any(split in task.splits for task in found.tasks):
            raise DataError(
                f"the data of {name} has no split {split}",
                code="bad_task",
                hint="Check test_split, validation_split, training_split and fewshot_split in the task's file.",
            ) from error
        task = task_of(error) or name
        entry = found.known.get(task)
        fault = find_fault(error, None if entry is None else entry.path)
        raise DataError(
            f"lm-eval cannot build the task {task}: {fault.what}",
            code="bad_task",
            where=fault.where,
            hint=f"lm-eval's own messages above may say more. {FIELDS_HINT}",
        ) from error
    group = loaded.get("groups", {}).get(name)
    return [group] if group is not None else list(loaded["tasks"].values())


@contextmanager
def _answered_from(found: FoundTasks, sources: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Within this context ``datasets.load_dataset`` looks into the data folder first; ``sources`` records the data."""
    import datasets

    original = datasets.load_dataset

    def load_dataset(
        path: str,
        name: str | None = None,
        data_dir: str | None = None,
        data_files: Any = None,
        split: Any = None,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        dataset = DatasetName(path, None if name is None else str(name), data_dir)
        users = [task for task in found.tasks if task.dataset == dataset]
        source = sources.setdefault(str(dataset), {"from": "", "tasks": {task.task: task.scored for task in users}})
        local = None if data_files else _local(dataset, users, found.data_dir, source)
        if local is not None:
            return local if split is None else local[split]
        source["from"] = _origin(path, data_files, found.offline)
        try:
            whole = original(path, name, data_dir, data_files, split, *arguments, **options)
        except Exception as error:  # from many libraries
            if isinstance(error, OSError) and (error.errno in _NOT_PERMITTED or _lacks_cache(error)):
                raise _not_permitted(dataset, error) from error
            files, named = local_files(path, data_files, data_dir), tuple(texts_in(data_files))
            if len(files) == len(named) > 0 and not isinstance(error.__cause__ or error, OSError):
                task = next((task.task for task in found.tasks if task.files == named), path)
                entry = found.known.get(task)
                raise damaged_files(task, None if entry is None else entry.path, files, error) from error
            because = "" if found.offline is None else f", and {found.offline}"
            raise DataError(
                f"the data set {dataset} cannot be loaded{because} ({type(error).__name__}: {error})",
                code="missing_data",
                where=str(found.data_dir),
                hint=fetch_hint(users, found.data_dir) if users else None,
            ) from error
        if (revision := _revision(whole)) is not None:
            source["revision"] = revision
        return whole

    datasets.load_dataset = load_dataset
    try:
        yield
    finally:
        datasets.load_dataset = original


def _lacks_cache(error: OSError) -> bool:
    """Whether the error says that the folder of the cache cannot be made, as where HOME is ``/proc``."""
    import datasets

    return error.filename is not None and Path(datasets.config.HF_DATASETS_CACHE).is_relative_to(str(error.filename))


def _not_permitted(dataset: DatasetName, error: OSError) -> DataError:
    """The error for a file of the data set that cannot be read, or for a cache that `datasets` cannot write."""
    path = Path(str(error.filename))
    if path.is_file():
        text, hint = f"the data file {path} cannot be read: {error.strerror}", "Check its permissions."
        return DataError(text, code="unreadable_file", where=str(path), hint=hint)
    return DataError(
        f"the data set {dataset} is loaded through a cache, and {path} cannot be written: {error.strerror}",
        code="unwritable_file",
        where=str(path),
        hint="Set HF_HOME to a folder that can be written to, as in HF_HOME=/tmp/huggingface.",
    )


def _local(dataset: DatasetName, users: list[TaskData], data_dir: Path, source: dict[str, Any]) -> Any:
    """The splits of a data set, with documents in those that are needed; None if it is not local."""
    import datasets

    wanted = [split for task in users for split in task.needed] or local_data.split_names(dataset, data_dir)
    read = {split: local_data.read_split(dataset, split, data_dir) for split in dict.fromkeys(wanted)}
    local = {split: found for split, found in read.items() if found is not None}
    if not local or len(local) < len(read):
        return None
    tables = {}
    for split, found in local.items():
        try:
            tables[split] = datasets.Dataset.from_list(found.documents)
        except Exception as error:  # from pyarrow, if the values of a field have different types
            raise DataError(
                f"the documents of {split} cannot form one table: {error}",
                code="bad_data",
                where=str(found.files[0].path),
            ) from error
    source["from"] = "local files"
    source["splits"] = {
        split: {
            "documents": len(found.documents),
            "files": [{"path": str(f.path), "sha256": f.sha256, "published": f.published} for f in found.files],
        }
        for split, found in local.items()
    }
    # lm-eval opens every split that the task names, even if no example is drawn from it.
    empty = next(iter(tables.values())).select([])
    return datasets.DatasetDict({split: empty for task in users for split in task.splits} | tables)


def _origin(path: str, data_files: Any, offline: str | None) -> str:
    """Where ``datasets`` itself gets documents from."""
    if Path(path).exists():
        return f"the folder {Path(path).resolve()}"
    if data_files and "/" not in path:
        return "files that the task names"
    return "Hugging Face hub" if offline is None else "Hugging Face cache"


def _revision(loaded: Any) -> str | None:
    """The commit of the hub's repository; None if ``datasets`` has not recorded it."""
    part = next(iter(loaded.values()), None) if isinstance(loaded, dict) else loaded
    checksums = getattr(getattr(part, "info", None), "download_checksums", None) or {}
    address = next((text for text in checksums if "@" in text), "")
    return address.partition("@")[2].partition("/")[0] or None
