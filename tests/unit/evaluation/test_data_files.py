"""Files that a task names itself: what is missing or damaged is named, with the task's own file."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.errors import DataError
from neoxrun.evaluation import data, hub
from support.task_data import own_task, write_lines


def write_task(tasks: Path, kind: str, files: str, *more: str) -> Path:
    kwargs = f"dataset_kwargs: {{data_files: {files}{''.join(f', {one}' for one in more)}}}"
    lines = own_task("mine", f"dataset_path: {kind}", kwargs)
    return write_lines(tasks / "mine.yaml", *(line for line in lines if line != "dataset_path: me/words"))


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files of this machine need no network; ``datasets`` builds its tables in the test's folder."""

    def ask() -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "why_unreachable", ask)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("more", [(), ("data_dir: texts",)])
def test_a_missing_file_is_named_before_anything_is_loaded(tmp_path: Path, more: tuple[str, ...]) -> None:
    where = "texts/none.jsonl" if more else "none.jsonl"
    task = write_task(tmp_path / "tasks", "json", "{test: none.jsonl}", *more)
    with pytest.raises(DataError, match=f"the data file {where} of the task mine does not exist") as caught:
        data.find_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks")
    assert (caught.value.code, caught.value.where) == ("missing_file", where)
    assert f"{task}:7" in caught.value.hint
    (tmp_path / where).mkdir(parents=True)
    with pytest.raises(DataError, match="is not a file"):
        data.find_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks")


@pytest.mark.parametrize(
    ("kind", "name", "content", "says", "line"),
    [
        ("json", "a.jsonl", '{"text": "a"}\n{"text": "b\n{"text": "c"}\n', "not JSON: Unterminated string", ":2"),
        ("json", "a.jsonl", '{"text": "a"}\n5\n', "not a JSON object", ":2"),
        ("json", "a.json", '[{"text": "a"},\n{"text"', "is not JSON: Expecting ':'", ":2"),
        ("json", "a.jsonl", "", "is empty", ""),
        ("csv", "a.csv", "text,b\n1,2\n1,2,3\n", "Expected 2 fields in line 3, saw 3", ""),
        ("parquet", "a.parquet", "PAR1xx", "Parquet", ""),
    ],
)
def test_a_damaged_file_is_named(kind: str, name: str, content: str, says: str, line: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    write_lines(tmp_path / "good.jsonl", {"text": "a b"})
    task = write_task(tmp_path / "tasks", kind, f"{{test: {name}}}")
    with pytest.raises(DataError, match="mine") as caught:
        data.prepare_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks")
    assert says in caught.value.message
    assert (caught.value.code, caught.value.where) == ("bad_data", f"{name}{line}")
    assert f"{task}:7" in caught.value.hint


def test_the_damaged_one_of_two_files_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "good.jsonl", {"text": "a b"})
    write_lines(tmp_path / "bad.jsonl", {"text": "a b"}, '{"text"')
    write_task(tmp_path / "tasks", "json", "{test: [good.jsonl, bad.jsonl]}")
    with pytest.raises(DataError, match=r"bad\.jsonl of the task mine has a line") as caught:
        data.prepare_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks")
    assert caught.value.where == "bad.jsonl:2"


def test_files_that_can_be_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "texts" / "good.jsonl", {"text": "a b"})
    write_task(tmp_path / "tasks", "json", "{test: good.jsonl}", "data_dir: texts")
    prepared = data.prepare_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks")
    assert list(prepared.task_dict["tasks"]["mine"].eval_docs) == [{"text": "a b"}]
