"""Names of tasks, groups and tags."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation import catalog as catalog_module
from neoxrun.evaluation.catalog import TaskCatalog, TaskName
from support.task_data import write_lines


def test_names_tags_groups_and_globs(catalog: TaskCatalog) -> None:
    assert catalog.match(["piqa", "lambada", "piqa"]) == ["piqa", "lambada"]
    assert catalog.match(["lambada_openai,piqa"]) == ["lambada_openai", "piqa"]
    assert [task for task, _ in catalog.select(["lambada"]).tasks] == ["lambada_openai", "lambada_standard"]
    assert catalog.match(["lambada_s*d"]) == ["lambada_standard"]
    assert {"lambada_openai", "lambada_standard"} < set(catalog.match(["lambada*"]))
    assert "lambada" not in catalog.match(["lambada*"])  # a tag of tasks that match already
    assert len(catalog.select(["mmlu"]).tasks) == catalog.count(["mmlu"]) == 57


def test_unknown_names(catalog: TaskCatalog) -> None:
    with pytest.raises(UsageError) as caught:
        catalog.match(["piqa", "lambada_opena"])
    assert caught.value.code == "unknown_task"
    assert caught.value.message == "there is no task 'lambada_opena'"
    assert caught.value.hint.startswith("Did you mean lambada_openai")
    assert "`--tasks list` shows all names." in caught.value.hint
    with pytest.raises(UsageError, match=r"'no_such_\*'") as caught:
        catalog.match(["no_such_*"])
    assert caught.value.code == "unknown_task"
    with pytest.raises(UsageError):
        catalog.match([" , "])


def test_wrong_task_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        TaskCatalog(tmp_path / "typo").match(["piqa"])
    assert caught.value.code == "invalid_value"
    path = write_lines(tmp_path / "own.yaml", "task: own", "tag: [one")
    with pytest.raises(DataError, match="not valid YAML") as caught:
        TaskCatalog(tmp_path).match(["piqa"])
    assert caught.value.code == "bad_task"
    assert caught.value.where.startswith(str(path))
    write_lines(path, "task: own", "include: missing.yaml")
    with pytest.raises(DataError, match=r"missing.yaml cannot be read") as caught:
        TaskCatalog(tmp_path).match(["piqa"])
    assert caught.value.code == "unreadable_file"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("include: 5", "`include` must name files, not 5"),
        ("tag: [[1]]", r"\[1\] is not the name of a tag"),
        ("tag: [2]", "2 is not the name of a tag"),
    ],
)
def test_values_that_are_no_names(line: str, says: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "own.yaml", "task: own", line)
    with pytest.raises(DataError, match=says) as caught:
        TaskCatalog(tmp_path)
    assert (caught.value.code, caught.value.where) == ("bad_task", str(path))


def test_a_task_whose_name_is_a_number(tmp_path: Path) -> None:
    write_lines(tmp_path / "own.yaml", "task: 5")
    with pytest.raises(DataError, match="5 is not the name of a task") as caught:
        TaskCatalog(tmp_path)
    assert caught.value.hint == "Put it into quotes."


def test_what_cannot_be_read_is_reported_before_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(DataError, match="is not a file") as caught:
        TaskCatalog(tmp_path)
    assert caught.value.code == "unreadable_file"
    (tmp_path / "pipe.yaml").unlink()
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "none")
    with pytest.raises(DataError, match=r"dangling\.yaml cannot be read: No such file"):
        TaskCatalog(tmp_path)
    (tmp_path / "dangling.yaml").unlink()
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def scandir(path: str) -> object:  # root may list any folder
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="closed cannot be read: Permission denied") as caught:
        TaskCatalog(tmp_path)
    assert caught.value.where == str(tmp_path / "closed")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff\xfe\x00", "UTF-16"),
        (b"doc_to_text: caf\xe9\n", "UTF-8"),
        (b"doc_to_text: [one\n", "not valid YAML"),
        (b"dataset_path: x\0y\n", "not valid YAML"),
        (b"a text\n", "must hold `option: value` pairs"),
    ],
)
def test_a_file_without_a_name_that_cannot_be_read_is_reported(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_bytes(data)
    with pytest.raises(DataError, match=says) as caught:
        TaskCatalog(tmp_path)
    assert caught.value.code == "bad_task"
    assert str(caught.value.where).startswith(f"{tmp_path}/broken.yaml")


@pytest.mark.parametrize("text", ["", "\n", "# to come\n"])
def test_an_empty_task_file_is_named(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty.yaml").write_text(text, encoding="utf-8")
    write_lines(tmp_path / "template.yaml", "output_type: loglikelihood", "process_docs: !function utils.docs")
    TaskCatalog(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"the task file {tmp_path}/empty.yaml is empty: it defines no task"
    ]


def test_a_name_that_is_indented_is_found(tmp_path: Path) -> None:
    """The whole file is indented, which YAML allows."""
    path = write_lines(tmp_path / "own.yaml", "  task: own", "  dataset_path: me/words")
    assert TaskCatalog(tmp_path).select(["own"]).known["own"] == TaskName("task", path)


def test_names_are_found_fast(read_folder: Callable[..., dict[str, TaskName]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "_read_folder", read_folder)
    begin = time.process_time()
    TaskCatalog().match(["piqa"])
    assert time.process_time() - begin < 5, "lm-eval's own index takes ten seconds"
