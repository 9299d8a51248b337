"""What is wrong with a task is said before the weights are loaded, and before a table looks as if nothing were."""

from __future__ import annotations

from itertools import islice
from typing import Any

from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator_utils import get_sample_size

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation.data import FIELDS_HINT
from neoxrun.evaluation.find import refuse_programs


def check(name: str, task: Any, limit: float | None) -> None:
    """Look through a task of lm-eval's, with the documents that will be scored.

    Raises:
        DataError: its first request cannot be made, or a document's right answer is none of its choices.
        UsageError: it is not for a text model, or runs what the model writes.
    """
    if getattr(task, "UNSAFE_CODE", False):
        refuse_programs(name)
    if getattr(task, "MULTIMODAL", False):
        raise UsageError(f"{name} asks about more than text, which these models cannot read", code="unsupported_task")
    try:
        task.build_all_requests(limit=1)
        wrong = _wrong_answer(task, limit)
    except Exception as error:  # the code and the templates of a task may do anything
        raise DataError(
            f"lm-eval cannot make the requests of {name}: {type(error).__name__}: {error}",
            code="bad_task",
            hint=FIELDS_HINT,
        ) from error
    if wrong is not None:
        raise DataError(f"{name}: {wrong}, so that no answer can be right", code="bad_task", hint=FIELDS_HINT)


def _wrong_answer(task: Any, limit: float | None) -> str | None:
    """The first document whose right answer is none of its choices: lm-eval counts any answer to it as wrong.

    Of a list of right answers, all numbers, one that is there is enough.
    """
    own = type(task).process_results is not ConfigurableTask.process_results or task.config.process_results
    if own or task.OUTPUT_TYPE != "multiple_choice":
        return None
    right_of = task.doc_to_text if task.multiple_input else task.doc_to_target
    for number, document in islice(enumerate(task.eval_docs), get_sample_size(task, limit)):
        choices, right = task.doc_to_choice(document), right_of(document)
        if isinstance(right, str):
            there = right in choices
        else:
            numbers = right if isinstance(right, list) else [right]
            there = all(isinstance(one, int) for one in numbers) and any(0 <= one < len(choices) for one in numbers)
        if not there:
            return f"document {number} (from 0) has {right!r} for its right answer, of {len(choices)} choices"
    return None
