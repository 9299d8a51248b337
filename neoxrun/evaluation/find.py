"""Finds the documents of tasks, or reports within seconds which are missing: no torch, no lm-eval, no ``datasets``.

The user's data folder comes first; the Hugging Face hub is asked only if documents are missing there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation import hub, local_data
from neoxrun.evaluation.catalog import TaskCatalog, TaskName
from neoxrun.evaluation.data_files import check_present, texts_in
from neoxrun.evaluation.local_data import default_data_dir
from neoxrun.evaluation.published_data import DatasetName
from neoxrun.evaluation.task_values import check_values
from neoxrun.terminal.log import log
from neoxrun.terminal.words import listing

_SPLIT_KEYS = ("training_split", "validation_split", "test_split", "fewshot_split")
_SHOWN = 5  # commands that a message shows before it counts the rest


@dataclass(frozen=True)
class TaskData:
    """The data that one task reads.

    Attributes:
        task: its name.
        dataset: its data set; None if the task names files itself, or gets its documents with its own code.
        on_disk: whether the files that it names itself are present.
        scored: the split that it is scored on.
        splits: every split that its configuration names.
        shots: few-shot examples before each document.
        drawn: the split that these come from; None if it needs none.
        files: the files that it names itself, as they are written.
    """

    task: str
    dataset: DatasetName | None
    on_disk: bool
    scored: str | None
    splits: tuple[str, ...]
    shots: int
    drawn: str | None
    files: tuple[str, ...] = ()

    @property
    def needed(self) -> list[str]:
        """The splits whose documents it needs."""
        return list(dict.fromkeys(split for split in (self.scored, self.drawn) if split))


@dataclass(frozen=True)
class FoundTasks:
    """Tasks whose data was found, ready to be loaded by another process.

    Attributes:
        names: the names that were asked for, with patterns resolved.
        known: these names and their members, for lm-eval.
        tasks: every single task.
        data_dir: the data folder.
        offline: why the hub must not be used; None if it may be.
        num_fewshot: examples before each document, if the user said how many.
    """

    names: tuple[str, ...]
    known: Mapping[str, TaskName]
    tasks: tuple[TaskData, ...]
    data_dir: Path
    offline: str | None
    num_fewshot: int | None


def find_tasks(
    patterns: Iterable[str], data_dir: Path, *, include_path: Path | None = None, num_fewshot: int | None = None
) -> FoundTasks:
    """Find the data of tasks, and check it.

    Files in ``data_dir`` come before the hub, which is asked at most once, and only if files are missing.

    Args:
        patterns: names of tasks, groups and tags, and globs of them.
        data_dir: the data folder; the default one need not exist.
        include_path: a folder with the user's task files.
        num_fewshot: examples before each document, instead of the tasks' own number.

    Raises:
        UsageError: there is no such task, few-shot examples would come from the documents that are scored, or a task
            is not for text, or runs code that the model writes.
        DataError: a task's file is wrong, its data is neither local nor available from the hub, or a file is damaged.
    """
    if not data_dir.is_dir() and data_dir != default_data_dir():
        raise DataError(f"the data folder {data_dir} does not exist", code="missing_file", hint="Check --data-dir.")
    catalog = TaskCatalog(include_path)
    selection = catalog.select(catalog.match(patterns))
    for name, values in selection.tasks:
        file = selection.known[name].path if name in selection.known else None
        check_values(name, values, file)
        check_present(name, values, file)
    tasks = tuple(_understood(name, values, num_fewshot, data_dir) for name, values in selection.tasks)
    open_tasks = [task for task in tasks if not _is_local(task, data_dir)]
    offline = hub.why_unreachable() if open_tasks else "all data is local, so the hub is not asked"
    if offline is not None:
        _refuse_missing(tasks, open_tasks, data_dir, offline)
    return FoundTasks(selection.names, selection.known, tasks, data_dir, offline, num_fewshot)


def _understood(name: str, values: Mapping[str, Any], num_fewshot: int | None, data_dir: Path) -> TaskData:
    """``_task_data``, with a value of a wrong type reported as a mistake in the task file."""
    try:
        return _task_data(name, values, num_fewshot, data_dir)
    except (AttributeError, TypeError) as error:
        raise DataError(
            f"the file of the task {name} has a value that lm-eval does not accept: {error}",
            code="bad_task",
            hint=f"Check these options in it: {', '.join(sorted(values))}.",
        ) from error


def _task_data(name: str, values: Mapping[str, Any], num_fewshot: int | None, data_dir: Path) -> TaskData:
    """The data that a task reads, by its configuration; little is known of a task that is custom code."""
    options = values.get("dataset_kwargs") or {}
    path, by_code = values.get("dataset_path"), values.get("class") or values.get("custom_dataset")
    given = {key: values.get(key) for key in _SPLIT_KEYS}
    scored = given["test_split"] or given["validation_split"]
    dataset, on_disk = None, False
    files: tuple[str, ...] = ()
    if isinstance(path, str) and not by_code:
        if "data_files" in options:
            folder, files = Path(options.get("data_dir") or ""), tuple(texts_in(options["data_files"]))
            on_disk = all((folder / file).is_file() for file in files)
        else:
            dataset_name = values.get("dataset_name")
            dataset = DatasetName(path, None if dataset_name is None else str(dataset_name), options.get("data_dir"))
            # If the path exists, `datasets` uses it as a local folder. The data folder comes first.
            if Path(path).exists() and not (scored and local_data.read_split(dataset, scored, data_dir)):
                dataset, on_disk = None, True
    fewshot = values.get("fewshot_config") or {}
    declared = fewshot.get("split", given["fewshot_split"])
    examples = 0 if values.get("class") else fewshot_count(values.get("num_fewshot"), num_fewshot)
    drawn = None
    if examples and (declared or not fewshot.get("samples")):
        drawn = declared or given["training_split"] or given["validation_split"] or scored
        if drawn == scored and not declared:
            raise UsageError(
                f"{name} has no separate split for few-shot examples: "
                f"they would come from {scored}, the split that is scored",
                code="unsupported_task",
                hint="Run it without examples: --num-fewshot 0.",
            )
        if drawn == scored:
            log.warning(f"the few-shot examples of {name} come from {scored}, the split that it is scored on")
    named = [split for split in (*given.values(), declared) if split]
    return TaskData(name, dataset, on_disk, scored, tuple(dict.fromkeys(named)), examples, drawn, files)


def fewshot_count(of_task: int | None, asked: int | None) -> int:
    """The number of few-shot examples, by lm-eval's rule: a task that says 0 always has none."""
    return of_task or 0 if asked is None or of_task == 0 else asked


def _is_local(task: TaskData, data_dir: Path) -> bool:
    """Whether the data folder has the scored split, or the files that the task itself names are present.

    Raises:
        DataError: the data folder has the scored split, but not that of the few-shot examples: the documents of a
            data set never come from two sources.
    """
    if task.dataset is None or task.scored is None:
        return task.on_disk
    if local_data.read_split(task.dataset, task.scored, data_dir) is None:
        return False
    if task.drawn and local_data.read_split(task.dataset, task.drawn, data_dir) is None:
        raise DataError(
            f"{task.task} needs {task.drawn} for its {task.shots} few-shot examples, but the data folder only holds "
            f"{task.scored}",
            code="missing_data",
            where=str(data_dir),
            hint=f"Add {local_data.file_names(task.dataset, task.drawn, data_dir)}:\n"
            f"  {local_data.fetch_command(task.dataset, task.drawn, data_dir)}\n"
            "Or run without examples: --num-fewshot 0.",
        )
    return True


def _refuse_missing(tasks: Iterable[TaskData], open_tasks: list[TaskData], data_dir: Path, offline: str) -> None:
    missing = [task for task in open_tasks if task.dataset and not hub.is_cached(task.dataset.path, task.dataset.name)]
    if not missing:
        return
    ready = [task.task for task in tasks if task not in open_tasks]
    hint = fetch_hint(missing, data_dir)
    if ready:
        hint += f"\nThe data of {listing(ready)} is present, so you can run without the others."
    raise DataError(
        f"there is no data for {listing([f'{task.task} ({task.dataset})' for task in missing])}, and {offline}",
        code="missing_data",
        where=str(data_dir),
        hint=hint,
    )


def fetch_hint(tasks: Iterable[TaskData], data_dir: Path) -> str:
    """A hint with the files that tasks need, and the commands that fetch them."""
    commands: dict[str, list[str]] = {}
    for task in tasks:
        assert task.dataset is not None
        for split in task.needed:
            command = local_data.fetch_command(task.dataset, split, data_dir)
            commands.setdefault(command, []).append(local_data.file_names(task.dataset, split, data_dir))
    shown = list(commands.items())[:_SHOWN]
    lines = [f"  {' and '.join(dict.fromkeys(files))}:\n    {command}" for command, files in shown]
    more = len(commands) - len(shown)
    lines += [f"  and {more} more in the same way"] if more else []
    return f"Fetch the data on a machine with a network, into {data_dir}:\n" + "\n".join(lines)
