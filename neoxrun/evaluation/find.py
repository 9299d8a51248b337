"""Whether the documents of tasks are there, said within seconds: no torch, no lm-eval, no ``datasets``.

The user's data folder is looked at first; the Hugging Face hub is asked only for what is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation import hub, local_data
from neoxrun.evaluation.catalog import Catalog, Name
from neoxrun.evaluation.local_data import DatasetName, default_data_dir
from neoxrun.terminal.log import log
from neoxrun.terminal.words import listing

_SPLIT_KEYS = ("training_split", "validation_split", "test_split", "fewshot_split")
_SHOWN = 5  # commands that a message gives before it counts the rest


@dataclass(frozen=True)
class TaskData:
    """What one task reads.

    Attributes:
        task: its name.
        dataset: its data set; None where the task names files itself, or its own code gets the documents.
        on_disk: whether the files that it names itself are there.
        scored: the split that it is scored on.
        splits: every split that its configuration names.
        shots: few-shot examples before each document.
        drawn: the split that these come from; None where it needs none.
    """

    task: str
    dataset: DatasetName | None
    on_disk: bool
    scored: str | None
    splits: tuple[str, ...]
    shots: int
    drawn: str | None

    @property
    def needed(self) -> list[str]:
        """The splits whose documents it cannot do without."""
        return list(dict.fromkeys(split for split in (self.scored, self.drawn) if split))


@dataclass(frozen=True)
class Found:
    """Tasks whose data is there, ready to be loaded on another process.

    Attributes:
        names: what was asked for, patterns resolved.
        known: these names and their members, for lm-eval.
        tasks: every single task.
        data_dir: the data folder.
        offline: why the hub is not to be asked; None where it may be.
        num_fewshot: examples before each document, where the user said so.
    """

    names: tuple[str, ...]
    known: Mapping[str, Name]
    tasks: tuple[TaskData, ...]
    data_dir: Path
    offline: str | None
    num_fewshot: int | None


def find(
    patterns: Iterable[str], data_dir: Path, *, include_path: Path | None = None, num_fewshot: int | None = None
) -> Found:
    """Find the data of tasks, and check it.

    Files in ``data_dir`` win over the hub. The hub is asked only where they leave something open, and at most once.

    Args:
        patterns: names of tasks, groups and tags, and globs of them.
        data_dir: the data folder; it need not exist if it is the default one.
        include_path: a folder with task files of the user's own.
        num_fewshot: examples before each document, in place of the tasks' own number.

    Raises:
        UsageError: few-shot examples would come from the documents that are scored; a task runs what the model writes.
        DataError: no such task; data that is neither there nor to be had; a file that is damaged.
    """
    if not data_dir.is_dir() and data_dir != default_data_dir():
        raise DataError(f"the data folder {data_dir} does not exist", code="missing_file", hint="Check --data-dir.")
    catalog = Catalog(include_path)
    selection = catalog.select(catalog.match(patterns))
    tasks = tuple(_understood(name, values, num_fewshot, data_dir) for name, values in selection.tasks)
    open_tasks = [task for task in tasks if not _is_local(task, data_dir)]
    offline = hub.why_not() if open_tasks else "all data is local, so the hub is not asked"
    if offline is not None:
        _refuse_missing(tasks, open_tasks, data_dir, offline)
    return Found(selection.names, selection.known, tasks, data_dir, offline, num_fewshot)


def _understood(name: str, values: Mapping[str, Any], num_fewshot: int | None, data_dir: Path) -> TaskData:
    """``_task_data``, where a value of another type than lm-eval takes is the task file's fault."""
    try:
        return _task_data(name, values, num_fewshot, data_dir)
    except (AttributeError, TypeError) as error:
        raise DataError(
            f"the file of the task {name} is not as lm-eval takes it: {error}",
            code="bad_task",
            hint=f"Check in it {', '.join(sorted(values))}.",
        ) from error


def _task_data(name: str, values: Mapping[str, Any], num_fewshot: int | None, data_dir: Path) -> TaskData:
    """What a task reads, by its configuration; of a task that is a program of its own, little can be known."""
    if values.get("unsafe_code"):
        refuse_programs(name)
    options = values.get("dataset_kwargs") or {}
    path, by_code = values.get("dataset_path"), values.get("class") or values.get("custom_dataset")
    given = {key: values.get(key) for key in _SPLIT_KEYS}
    scored = given["test_split"] or given["validation_split"]
    dataset, on_disk = None, False
    if isinstance(path, str) and not by_code:
        if "data_files" in options:
            on_disk = all(Path(file).is_file() for file in _texts(options["data_files"]))
        else:
            dataset_name = values.get("dataset_name")
            dataset = DatasetName(path, None if dataset_name is None else str(dataset_name), options.get("data_dir"))
            # `datasets` takes a path that exists for a folder of the user's. The data folder goes first.
            if Path(path).exists() and not (scored and local_data.read(dataset, scored, data_dir)):
                dataset, on_disk = None, True
    fewshot = values.get("fewshot_config") or {}
    declared = fewshot.get("split", given["fewshot_split"])
    examples = 0 if values.get("class") else shots(values.get("num_fewshot"), num_fewshot)
    drawn = None
    if examples and (declared or not fewshot.get("samples")):
        drawn = declared or given["training_split"] or given["validation_split"] or scored
        if drawn == scored and not declared:
            raise UsageError(
                f"{name} has no documents of its own for few-shot examples: "
                f"they would come from {scored}, the split that is scored",
                code="unsupported_task",
                hint="Run it without examples: --num-fewshot 0.",
            )
        if drawn == scored:
            log.warning(f"{name} takes its few-shot examples from {scored}, the split that it is scored on")
    named = [split for split in (*given.values(), declared) if split]
    return TaskData(name, dataset, on_disk, scored, tuple(dict.fromkeys(named)), examples, drawn)


def refuse_programs(name: str) -> NoReturn:
    """Of a task that runs what the model writes."""
    raise UsageError(
        f"{name} runs program text that the model writes, which neoxrun does not do", code="unsupported_task"
    )


def _texts(value: Any) -> Iterator[str]:
    """The texts in lists and mappings of them, in any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def shots(of_task: int | None, asked: int | None) -> int:
    """Few-shot examples, as lm-eval decides: a task that says 0 means it."""
    return of_task or 0 if asked is None or of_task == 0 else asked


def _is_local(task: TaskData, data_dir: Path) -> bool:
    """Whether the data folder has the scored split, or the task names files that are there.

    Raises:
        DataError: it has, but not the split of the few-shot examples: one data set is not put together from two
            places.
    """
    if task.dataset is None or task.scored is None:
        return task.on_disk
    if local_data.read(task.dataset, task.scored, data_dir) is None:
        return False
    if task.drawn and local_data.read(task.dataset, task.drawn, data_dir) is None:
        raise DataError(
            f"{task.task} needs {task.drawn} for its {task.shots} few-shot examples, and the data folder holds only "
            f"{task.scored}",
            code="missing_data",
            where=str(data_dir),
            hint=f"Add {local_data.files(task.dataset, task.drawn, data_dir)}:\n"
            f"  {local_data.fetch_command(task.dataset, task.drawn, data_dir)}\n"
            "or run without examples: --num-fewshot 0.",
        )
    return True


def _refuse_missing(tasks: Iterable[TaskData], open_tasks: list[TaskData], data_dir: Path, offline: str) -> None:
    missing = [task for task in open_tasks if task.dataset and not hub.cached(task.dataset.path, task.dataset.name)]
    if not missing:
        return
    ready = [task.task for task in tasks if task not in open_tasks]
    hint = fetch_hint(missing, data_dir)
    if ready:
        hint += f"\nThe data of {listing(ready)} is there; to run only that, name only that."
    raise DataError(
        f"there is no data for {listing([f'{task.task} ({task.dataset})' for task in missing])}, and {offline}",
        code="missing_data",
        where=str(data_dir),
        hint=hint,
    )


def fetch_hint(tasks: Iterable[TaskData], data_dir: Path) -> str:
    """What to fetch for tasks, and the commands for it."""
    commands: dict[str, list[str]] = {}
    for task in tasks:
        assert task.dataset is not None
        for split in task.needed:
            command = local_data.fetch_command(task.dataset, split, data_dir)
            commands.setdefault(command, []).append(local_data.files(task.dataset, split, data_dir))
    shown = list(commands.items())[:_SHOWN]
    lines = [f"  {' and '.join(dict.fromkeys(files))}:\n    {command}" for command, files in shown]
    more = len(commands) - len(shown)
    lines += [f"  and {more} more, in the same way"] if more else []
    return f"Fetch it where there is a network, into {data_dir}:\n" + "\n".join(lines)
