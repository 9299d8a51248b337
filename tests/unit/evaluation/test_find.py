"""Which data tasks need, and errors that say what is missing before anything is loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation import data, hub
from support.task_data import write_lines


def test_tasks_whose_own_files_are_there_need_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "own.jsonl", {"text": "a b"})
    write_lines(
        tmp_path / "tasks" / "own.yaml",
        "task: own",
        "dataset_path: json",
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/own.jsonl}}}}",
        "test_split: test",
        "output_type: loglikelihood_rolling",
        'doc_to_text: ""',
        'doc_to_target: "{{text}}"',
    )
    monkeypatch.setattr(hub, "why_unreachable", lambda: pytest.fail("the hub was asked"))
    assert data.find_tasks(["own"], tmp_path, include_path=tmp_path / "tasks").offline is not None
    task = tmp_path / "tasks" / "own.yaml"
    task.write_text(task.read_text(encoding="utf-8").replace(f"{tmp_path}/own", "https://hub.invalid/own"), "utf-8")
    asked = []
    monkeypatch.setattr(hub, "why_unreachable", lambda: asked.append(True))
    data.find_tasks(["own"], tmp_path, include_path=tmp_path / "tasks")
    assert asked, "a file elsewhere needs the network"


def test_one_changed_byte_is_told(published: Path, tmp_path: Path) -> None:
    whole = (published / "lambada" / "lambada_test.jsonl").read_bytes()
    content = bytearray(whole)
    content[1000] ^= 1
    changed = tmp_path / "lambada_test.jsonl"
    changed.write_bytes(content)
    with pytest.raises(DataError) as caught:
        data.find_tasks(["lambada_openai"], tmp_path)
    error = caught.value
    assert error.where == str(changed)
    assert hashlib.sha256(whole).hexdigest() in error.message
    assert hashlib.sha256(content).hexdigest() in error.message
    assert f"Remove it and fetch it again: neoxrun download --tasks lambada_openai --to {tmp_path}" in error.hint
    assert str(tmp_path / "EleutherAI/lambada_openai/default/test.jsonl") in error.hint


def test_unreadable_folder_and_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="does not exist") as caught:
        data.find_tasks(["piqa"], tmp_path / "typo")
    assert caught.value.code == "missing_file"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data.default_data_dir() == tmp_path / "neoxrun" / "data"
    with pytest.raises(DataError, match="there is no data for piqa") as caught:  # the default folder need not exist
        data.find_tasks(["piqa"], data.default_data_dir())
    assert caught.value.code == "missing_data"


def test_examples_are_never_drawn_from_the_scored_split(published: Path) -> None:
    with pytest.raises(DataError) as caught:
        data.find_tasks(["piqa"], published, num_fewshot=2)
    assert caught.value.code == "missing_data"
    assert "needs train for its 2 few-shot examples" in caught.value.message
    assert "train-labels.lst" in caught.value.hint
    with pytest.raises(UsageError, match="they would come from test, the split that is scored") as caught:
        data.find_tasks(["lambada_openai"], published, num_fewshot=2)
    assert caught.value.code == "unsupported_task"
    without = data.prepare_tasks(["piqa"], published).task_dict["tasks"]["piqa"]
    with pytest.raises(AssertionError, match="no documents available"):
        without.fewshot_context(without.eval_docs[0], num_fewshot=2)


@pytest.mark.parametrize("line", ["dataset_kwargs: abc", "fewshot_config: abc"])
def test_values_of_other_types_in_task_files(line: str, tmp_path: Path) -> None:
    lines = ["task: own", "tag: 5", "dataset_path: own/set", "test_split: test", "num_fewshot: 1", line]
    write_lines(tmp_path / "own.yaml", *lines)
    with pytest.raises(DataError, match="own has a value that lm-eval does not accept") as caught:
        data.find_tasks(["own"], tmp_path, include_path=tmp_path)
    assert caught.value.code == "bad_task"
    assert line.partition(":")[0] in caught.value.hint


def test_a_group_in_itself(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "one.yaml", "group: one", "task: [two]")
    write_lines(tmp_path / "two.yaml", "group: two", "task: [one]")
    with pytest.raises(DataError, match="one contains itself") as caught:
        data.find_tasks(["one"], tmp_path, include_path=tmp_path)
    assert caught.value.code == "bad_task"
    assert caught.value.where == str(path)
