"""Checks of tasks before they are run, for mistakes that the results would not show; and their requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator_utils import get_sample_size

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation.data import FIELDS_HINT
from neoxrun.evaluation.find import refuse_code


def check_task(name: str, task: Any, limit: float | None) -> None:
    """Check a task of lm-eval's, with the documents that will be scored.

    Raises:
        DataError: a document's right answer is not among its choices, or one of them cannot be made.
        UsageError: it is not for a text model, or runs code that the model writes.
    """
    if getattr(task, "UNSAFE_CODE", False):
        refuse_code(name)
    if getattr(task, "MULTIMODAL", False):
        raise UsageError(
            f"{name} needs more than text, and these models only read text",
            code="unsupported_task",
            hint="Leave it out.",
        )
    with _reporting_errors(name):
        wrong = _wrong_answer(task, limit)
    if wrong is not None:
        raise DataError(f"{name}: {wrong}, so no answer can be right", code="bad_task", hint=FIELDS_HINT)


def build_requests(name: str, task: Any, limit: float | None) -> None:
    """Build the requests of a task now, so that ``lm_eval.evaluator.evaluate`` need not do it after the load.

    Raises:
        DataError: they cannot be built.
    """
    with _reporting_errors(name):
        task.build_all_requests(limit=get_sample_size(task, limit))
    task.build_all_requests = lambda **how: None  # where lm-eval would build the same ones again


@contextmanager
def _reporting_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a task's code and templates may raise anything
        raise DataError(
            f"lm-eval cannot build the requests of {name}: {type(error).__name__}: {error}",
            code="bad_task",
            hint=FIELDS_HINT,
        ) from error


def _wrong_answer(task: Any, limit: float | None) -> str | None:
    """The first document whose right answer is not among its choices: lm-eval counts any answer to it as wrong.

    In a list of right answers, which are all numbers, one of them among the choices is enough.
    """
    own = type(task).process_results is not ConfigurableTask.process_results or task.config.process_results
    if own or task.OUTPUT_TYPE != "multiple_choice":
        return None
    right_of = task.doc_to_text if task.multiple_input else task.doc_to_target
    for number, document in islice(enumerate(task.eval_docs), get_sample_size(task, limit)):
        choices, right = task.doc_to_choice(document), right_of(document)
        if isinstance(right, str):
            found = right in choices
        else:
            numbers = right if isinstance(right, list) else [right]
            found = all(isinstance(one, int) for one in numbers) and any(0 <= one < len(choices) for one in numbers)
        if not found:
            return (
                f"document {number} (counted from 0) has {right!r} as its right answer, which is not one of its "
                f"{len(choices)} choices"
            )
    return None
