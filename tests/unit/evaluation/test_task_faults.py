"""Where a task's templates and functions fail, its file and line are named, and the fields that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.errors import DataError
from neoxrun.evaluation import data
from neoxrun.evaluation.checks import build_requests
from support.task_data import own_task, write_lines


def write_task(folder: Path, *rows: dict[str, str], **options: str) -> Path:
    """A task with some options replaced, in a group, and its documents."""
    lines = [line for line in own_task("mine") if line.partition(":")[0] not in options]
    write_lines(folder / "me" / "words" / "test.jsonl", *rows)
    write_lines(folder / "tasks" / "group.yaml", "group: all_of_mine", "task: [mine]")
    return write_lines(folder / "tasks" / "mine.yaml", *lines, *(f"{key}: {value}" for key, value in options.items()))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ('"{{text|upper(}}"', "doc_to_text is not a valid template: unexpected '}', expected ')'"),
        ('"{{quest}}"', "doc_to_text: 'quest' is undefined; the fields of the document are text, other"),
        ('"{{text.of.what}}"', "doc_to_text: 'str object' has no attribute 'of'"),
    ],
)
@pytest.mark.parametrize("asked", ["mine", "all_of_mine"])
def test_a_wrong_template(template: str, says: str, asked: str, tmp_path: Path) -> None:
    file = write_task(tmp_path, {"text": "a b", "other": "c"}, doc_to_text=template)
    with pytest.raises(DataError, match="cannot build the task mine: ") as caught:
        data.prepare_tasks([asked], tmp_path, include_path=tmp_path / "tasks")
    assert says in caught.value.message
    assert (caught.value.code, caught.value.where) == ("bad_task", f"{file}:6")


@pytest.mark.parametrize("option", ["doc_to_text", "doc_to_target"])
def test_a_function_that_fails_at_a_document(option: str, tmp_path: Path) -> None:
    file = write_task(tmp_path, {"text": "a b"}, {"text": ""}, **{option: "!function code.last"})
    code = write_lines(tmp_path / "tasks" / "code.py", "def last(document):", "    return document['text'].split()[-1]")
    task = data.prepare_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks").task_dict["tasks"]["mine"]
    with pytest.raises(DataError, match=r"requests of mine, at document 1 ") as caught:
        build_requests("mine", task, None, file)
    assert f"{option}: IndexError: list index out of range ({code}:2)" in caught.value.message
    assert caught.value.where == f"{file}:6"


def test_a_function_that_makes_no_documents(tmp_path: Path) -> None:
    file = write_task(tmp_path, {"text": "a b"}, process_docs="!function code.none")
    code = write_lines(tmp_path / "tasks" / "code.py", "def none(documents):", "    return documents.nothing()")
    with pytest.raises(DataError, match="cannot build the task mine: AttributeError") as caught:
        data.prepare_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks")
    assert f"({code}:2)" in caught.value.message
    assert caught.value.where == str(file)
