"""Names of tasks, groups and tags."""

from __future__ import annotations

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
    assert len(catalog.select(["mmlu"]).tasks) == 57


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


def test_names_are_found_fast(read_folder: Callable[..., dict[str, TaskName]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "_read_folder", read_folder)
    begin = time.process_time()
    TaskCatalog().match(["piqa"])
    assert time.process_time() - begin < 5, "lm-eval's own index takes ten seconds"
