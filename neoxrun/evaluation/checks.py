"""Checks of tasks before they are run, for mistakes that the results would not show; and their requests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator_utils import get_sample_size

from neoxrun.errors import DataError
from neoxrun.evaluation.data import FIELDS_HINT
from neoxrun.evaluation.task_faults import find_fault
from neoxrun.evaluation.task_values import refuse_code, refuse_media
from neoxrun.terminal.log import log
from neoxrun.terminal.words import counted

_SHOWN = 5  # numbers of documents in a message, before the others are counted


def check_task(name: str, task: Any, limit: float | None, file: Path | None = None) -> None:
    """Check a task of lm-eval's, with the documents that will be scored.

    Args:
        name: of the task.
        task: lm-eval's.
        limit: as for lm-eval.
        file: the task's own, for errors; None if it is not known.

    Raises:
        DataError: a document's right answer is not among its choices, or one of them cannot be made.
        UsageError: it is not for a text model, or runs code that the model writes.
    """
    if getattr(task, "UNSAFE_CODE", False):
        refuse_code(name)
    if getattr(task, "MULTIMODAL", False):
        refuse_media(name)
    with _reporting_errors(name, task, limit, file):
        wrong = _wrong_answer(task, limit)
    if wrong is not None:
        raise DataError(f"{name}: {wrong}, so no answer can be right", code="bad_task", hint=FIELDS_HINT)
    for field, numbers in _empty_texts(task, limit).items():
        which = f"{counted(len(numbers), 'document')} of {name} {'has' if len(numbers) == 1 else 'have'}"
        log.warning(f"{which} no text under {field!r}: {_shortened(numbers)} (counted from 0)")


def build_requests(name: str, task: Any, limit: float | None, file: Path | None = None) -> None:
    """Build the requests of a task now, so that ``lm_eval.evaluator.evaluate`` need not do it after the load.

    The arguments are those of ``check_task``.

    Raises:
        DataError: they cannot be built.
    """
    with _reporting_errors(name, task, limit, file):
        task.build_all_requests(limit=get_sample_size(task, limit))
    empty = sorted({one.doc_id for one in task.instances if _continues_with_nothing(one)})
    if empty:
        which = f"{counted(len(empty), 'document')} of {name} {'has' if len(empty) == 1 else 'have'}"
        log.warning(f"{which} a choice or an answer without text: {_shortened(empty)} (counted from 0)")
    task.build_all_requests = lambda **how: None  # where lm-eval would build the same ones again


def _continues_with_nothing(request: Any) -> bool:
    """Whether it asks for the probability of an empty text; lm-eval puts a delimiter, mostly a space, before it."""
    return request.request_type == "loglikelihood" and not request.args[1].strip()


@contextmanager
def _reporting_errors(name: str, task: Any, limit: float | None, file: Path | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a task's code and templates may raise anything
        number = _first_that_fails(task, limit)
        document = "" if number is None else f", at document {number} (counted from 0)"
        fault = find_fault(error, file)
        raise DataError(
            f"lm-eval cannot build the requests of {name}{document}: {fault.what}",
            code="bad_task",
            where=fault.where,
            hint=FIELDS_HINT,
        ) from error


def _first_that_fails(task: Any, limit: float | None) -> int | None:
    """The first document of which the task's templates or functions make no text; None if they do of all."""
    makers = [task.doc_to_text, task.doc_to_target]
    if getattr(task.config, "doc_to_choice", None) is not None:
        makers.append(task.doc_to_choice)
    for number, document in _scored_documents(task, limit):
        for make in makers:
            try:
                make(document)
            except Exception:  # of any kind, as above
                return number
    return None


def _empty_texts(task: Any, limit: float | None) -> dict[str, list[int]]:
    """The documents that are null or empty in a field which the task's templates name, by field."""
    templates = (getattr(task.config, option, None) for option in ("doc_to_text", "doc_to_target", "doc_to_choice"))
    words = {word for text in templates if isinstance(text, str) for word in re.findall(r"\w+", text)}
    found: dict[str, list[int]] = {}
    for number, document in _scored_documents(task, limit):
        for field in words & document.keys() if isinstance(document, dict) else ():
            value = document[field]
            if value is None or (isinstance(value, str) and not value.strip()):
                found.setdefault(field, []).append(number)
    return found


def _shortened(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    return f"{shown} and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else shown


def _scored_documents(task: Any, limit: float | None) -> Iterator[tuple[int, Any]]:
    return islice(enumerate(task.eval_docs), get_sample_size(task, limit))


def _wrong_answer(task: Any, limit: float | None) -> str | None:
    """The first document whose right answer is not among its choices: lm-eval counts any answer to it as wrong.

    In a list of right answers, which are all numbers, one of them among the choices is enough.
    """
    own = type(task).process_results is not ConfigurableTask.process_results or task.config.process_results
    if own or task.OUTPUT_TYPE != "multiple_choice":
        return None
    right_of = task.doc_to_text if task.multiple_input else task.doc_to_target
    for number, document in _scored_documents(task, limit):
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
