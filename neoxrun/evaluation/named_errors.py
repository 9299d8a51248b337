"""Errors of tasks while lm-eval evaluates them, with the task and the document that they are about.

A task's own code, its filters and metrics run only when all answers have been computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from lm_eval import evaluator_utils

from neoxrun.errors import DataError


@contextmanager
def named_errors(tasks: Iterable[Any]) -> Iterator[None]:
    """Within this context an error in one of lm-eval's tasks is a DataError that names it and its document."""
    for task in tasks:
        task.process_results = _scoring(task, task.process_results)
        task.apply_filters = _filtering(task, task.apply_filters)
    original = evaluator_utils._compute_task_aggregations

    def compute(task: Any, *how: Any) -> Any:
        try:
            return original(task, *how)
        except Exception as error:  # metrics may raise anything
            raise _failed(f"cannot compute the metrics of {task.task_name}", error) from error

    evaluator_utils._compute_task_aggregations = compute
    try:
        yield
    finally:
        evaluator_utils._compute_task_aggregations = original


def _scoring(task: Any, process: Callable[..., Any]) -> Callable[..., Any]:
    def named(document: Any, answers: Any) -> Any:
        try:
            return process(document, answers)
        except Exception as error:  # of any kind, as above
            number = next((one.doc_id for one in task.instances if one.doc == document), None)
            which = "a document" if number is None else f"document {number} (counted from 0)"
            raise _failed(f"cannot score {which} of {task.task_name}", error) from error

    return named


def _filtering(task: Any, apply: Callable[[], Any]) -> Callable[[], Any]:
    def named() -> Any:
        try:
            return apply()
        except Exception as error:  # of any kind, as above
            raise _failed(f"cannot apply the filters of {task.task_name} to its answers", error) from error

    return named


def _failed(what: str, error: Exception) -> DataError:
    return DataError(
        f"lm-eval {what}: {type(error).__name__}: {error}",
        code="bad_task",
        hint="Check process_results, metric_list and filter_list in the task's file, and that document.",
    )
