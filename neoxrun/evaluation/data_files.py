"""Files that a task itself names for ``datasets`` to read (``data_files``): which is missing, and which is damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from neoxrun.errors import DataError
from neoxrun.evaluation.task_files import line_of

# What `dataset_path` may be for files on this machine; any other name is a folder or a repository of the hub.
_FORMATS: Final = frozenset({"arrow", "csv", "json", "pandas", "parquet", "text", "xml"})
_JSON_ENDINGS: Final = frozenset({".json", ".jsonl", ".ndjson"})


def texts_in(value: Any) -> Iterator[str]:
    """The strings in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from texts_in(part)


def local_files(path: object, data_files: Any, data_dir: object) -> list[Path]:
    """The files on this machine among those that a task names; addresses and patterns are not files.

    Args:
        path: the task's ``dataset_path``.
        data_files, data_dir: those of its ``dataset_kwargs``.
    """
    if path not in _FORMATS:
        return []
    names = (name for name in texts_in(data_files) if "://" not in name and not set(name) & set("*?["))
    return [Path(data_dir if isinstance(data_dir, str) else "") / name for name in names]


def check_present(name: str, values: Mapping[str, Any], file: Path | None) -> None:
    """Check that the files that a task names exist.

    Args:
        name: of the task.
        values: by ``TaskCatalog.select``.
        file: the task's own; None if it is written out in a group's file.

    Raises:
        DataError: one does not.
    """
    options = values.get("dataset_kwargs")
    if not isinstance(options, Mapping) or values.get("class") or values.get("custom_dataset"):
        return
    files = local_files(values.get("dataset_path"), options.get("data_files"), options.get("data_dir"))
    missing = next((path for path in files if not path.is_file()), None)
    if missing is not None:
        raise DataError(
            f"the data file {missing} of the task {name} {'is not a file' if missing.exists() else 'does not exist'}",
            code="missing_file",
            where=str(missing),
            hint=f"Check data_files in {_written(file)}; relative paths are below the working folder.",
        )


def damaged_files(name: str, file: Path | None, files: list[Path], error: Exception) -> DataError:
    """The error for files of a task that ``datasets`` cannot read.

    Args:
        name: of the task.
        file: the task's own; None if it is written out in a group's file.
        files: those that it names, at least one.
        error: what ``datasets`` raised.
    """
    hint = f"Correct the file, or data_files in {_written(file)}."
    for path in files:
        if (fault := _fault(path)) is not None:
            line, what = fault
            where = str(path) if line is None else f"{path}:{line}"
            return DataError(f"the data file {path} of the task {name} {what}", code="bad_data", where=where, hint=hint)
    cause = error.__cause__ or error
    return DataError(
        f"the data of the task {name} cannot be loaded: {str(cause).strip() or type(cause).__name__}",
        code="bad_data",
        where=", ".join(map(str, files)),
        hint=hint,
    )


def _written(file: Path | None) -> str:
    return "the task's file" if file is None else line_of(file, "dataset_kwargs")


def _fault(path: Path) -> tuple[int | None, str] | None:
    """The line of a file that cannot be read, if there is one, and what is wrong; None if nothing is found."""
    data = path.read_bytes()
    if not data.strip():
        return None, "is empty"
    if path.suffix not in _JSON_ENDINGS:
        return None
    text = data.decode("utf-8", errors="replace")  # as `datasets` has it
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("["):
            return error.lineno, f"is not JSON: {error.msg} (column {error.colno})"
    else:
        return None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                return number, f"has a line that is not JSON: {error.msg} (column {error.colno})"
            if not isinstance(value, dict):
                return number, "has a line that is not a JSON object"
    return None
