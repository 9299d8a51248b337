"""Errors of tasks while lm-eval evaluates them, with the task and the document that they are about.

A task's own code, its filters and metrics run only when all answers have been computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_eval import evaluator_utils

from neoxrun.errors import DataError
from neoxrun.evaluation.task_faults import find_fault
from neoxrun.evaluation.task_files import line_of


@contextmanager
def named_errors(tasks: Mapping[str, Any], files: Mapping[str, Path | None]) -> Iterator[None]:
    """Within this context an error in one of lm-eval's tasks is a DataError that names it, its file and its document.

    Args:
        tasks: lm-eval's, by name.
        files: those of the tasks that have one, by the tasks' names.
    """
    for name, task in tasks.items():
        task.process_results = _scoring(task, task.process_results, files.get(name))
        task.apply_filters = _filtering(task, task.apply_filters, files.get(name))
    original = evaluator_utils._compute_task_aggregations

    def compute(task: Any, *how: Any) -> Any:
        try:
            return original(task, *how)
        except Exception as error:  # metrics may raise anything
            what = f"cannot compute the metrics of {task.task_name}"
            raise _failed(what, error, files.get(task.task_name), "metric_list") from error

    evaluator_utils._compute_task_aggregations = compute
    try:
        yield
    finally:
        evaluator_utils._compute_task_aggregations = original


def _scoring(task: Any, process: Callable[..., Any], file: Path | None) -> Callable[..., Any]:
    def named(document: Any, answers: Any) -> Any:
        try:
            return process(document, answers)
        except Exception as error:  # of any kind, as above
            number = next((one.doc_id for one in task.instances if one.doc == document), None)
            which = "a document" if number is None else f"document {number} (counted from 0)"
            raise _failed(f"cannot score {which} of {task.task_name}", error, file, "process_results") from error

    return named


def _filtering(task: Any, apply: Callable[[], Any], file: Path | None) -> Callable[[], Any]:
    def named() -> Any:
        try:
            return apply()
        except Exception as error:  # of any kind, as above
            what = f"cannot apply the filters of {task.task_name} to its answers"
            raise _failed(what, error, file, "filter_list") from error

    return named


def _failed(what: str, error: Exception, file: Path | None, option: str) -> DataError:
    fault = find_fault(error, file)
    own = None if file is None else line_of(file, option)
    # What made a text of the document has a line of its own.
    where = own if fault.where is None or fault.where == str(file) else fault.where
    return DataError(
        f"lm-eval {what}: {fault.what}",
        code="bad_task",
        where=where,
        hint="Check process_results, metric_list and filter_list in the task's file, and that document.",
    )
