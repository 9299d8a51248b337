"""Why a task's templates or functions fail, with the line of its file and the fields of its documents."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from neoxrun.evaluation.task_files import line_of

# Errors of jinja2, by name: nothing else here needs that library, which takes time to import.
_NOT_A_TEMPLATE: Final = ("TemplateSyntaxError", "TemplateAssertionError")
_UNDEFINED: Final = "UndefinedError"
_MAKERS: Final = ("doc_to_text", "doc_to_target", "doc_to_choice")


class TaskFault(NamedTuple):
    """Where a task fails.

    Attributes:
        what: what is wrong: the option, the error, the Python line of a function, the fields of a document.
        where: ``file:line`` of the option in the task's file; None where the file is not known.
    """

    what: str
    where: str | None


def find_fault(error: Exception, file: Path | None) -> TaskFault:
    """What an error in one of lm-eval's tasks is about, by the calls that led to it.

    Args:
        error: of any kind, with its traceback.
        file: the task's own file; None where it is written out in a group's.
    """
    calls = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    made = [at for at, (frame, _) in enumerate(calls) if frame.f_code.co_name in _MAKERS and "doc" in frame.f_locals]
    if not made:
        return TaskFault(f"{_text(error)}{_function_line(calls, file)}", None if file is None else str(file))
    frame = calls[made[-1]][0]
    option, document = frame.f_code.co_name, frame.f_locals["doc"]
    where = None if file is None else line_of(file, option)
    if type(error).__name__ in _NOT_A_TEMPLATE:
        return TaskFault(f"{option} is not a valid template: {error.args[0]}", where)
    what = f"{option}: {_text(error)}{_function_line(calls[made[-1] :], file)}"
    if type(error).__name__ in (_UNDEFINED, "KeyError") and isinstance(document, Mapping):
        what += f"; the fields of the document are {', '.join(map(str, document))}"
    return TaskFault(what, where)


def task_of(error: Exception) -> str | None:
    """The name of the task of lm-eval's in whose making an error was raised; None where there is none."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = getattr(getattr(frame.f_locals.get("self"), "config", None), "task", None)
        if isinstance(name, str):
            return name
    return None


def _text(error: Exception) -> str:
    return str(error) if type(error).__name__ == _UNDEFINED else f"{type(error).__name__}: {error}"


def _function_line(calls: list[tuple[Any, int]], file: Path | None) -> str:
    """The last line of Python next to the task's file, or below it, where a function of the task's fails."""
    folder = None if file is None else file.resolve().parent
    own = [(frame, line) for frame, line in calls if folder in Path(frame.f_code.co_filename).resolve().parents]
    return f" ({own[-1][0].f_code.co_filename}:{own[-1][1]})" if own else ""
