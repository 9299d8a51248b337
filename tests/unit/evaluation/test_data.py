"""The documents of tasks, as lm-eval is given them: local files as published or by split."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation import data
from neoxrun.evaluation.catalog import TaskCatalog
from support.task_data import OWN, STAND_INS, own_task, read_objects, write_lines


def test_published_files(published: Path) -> None:
    prepared = data.prepare_tasks(["lambada_openai", "piqa"], published)
    lambada, piqa = (prepared.task_dict["tasks"][name] for name in ("lambada_openai", "piqa"))

    texts = read_objects(published / "lambada" / "lambada_test.jsonl")
    assert len(lambada.eval_docs) == STAND_INS
    assert list(lambada.eval_docs) == texts
    assert lambada.doc_to_target(lambada.eval_docs[0]) == " " + texts[0]["text"].split()[-1]

    questions = read_objects(published / "piqa" / "valid.jsonl")
    labels = (published / "piqa" / "valid-labels.lst").read_text().split()
    assert len(piqa.eval_docs) == STAND_INS
    assert list(piqa.eval_docs) == [
        question | {"label": int(label)} for question, label in zip(questions, labels, strict=True)
    ]
    assert list(piqa.eval_docs[0]) == ["goal", "sol1", "sol2", "label"]  # their order counts in lm-eval's hashes
    assert piqa.doc_to_choice(piqa.eval_docs[-1])[piqa.doc_to_target(piqa.eval_docs[-1])] in questions[-1].values()

    source = prepared.sources["baber/piqa"]
    assert (source["from"], source["tasks"]) == ("local files", {"piqa": "validation"})
    assert source["splits"]["validation"]["documents"] == STAND_INS
    assert [(Path(file["path"]).name, file["published"]) for file in source["splits"]["validation"]["files"]] == [
        ("valid.jsonl", True),
        ("valid-labels.lst", True),
    ]
    json.dumps(prepared.sources)


def test_configuration_is_lm_evals_own(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lm-eval builds the same tasks from the hub: only the documents were handed over."""
    import datasets
    import lm_eval.tasks

    ours = data.prepare_tasks(["lambada_openai", "piqa"], published).task_dict["tasks"]
    row = {"text": "a b", "goal": "a", "sol1": "b", "sol2": "c", "label": 0}
    table = datasets.Dataset.from_list([row])
    hub = datasets.DatasetDict({"train": table, "validation": table, "test": table})
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: hub)
    folder = Path(lm_eval.tasks.__file__).parent
    paths = [str(folder / "lambada" / "lambada_openai.yaml"), str(folder / "piqa" / "piqa.yaml")]
    theirs = lm_eval.tasks.TaskManager(include_defaults=False).load(paths)["tasks"]
    for name, task in theirs.items():
        task.set_config("num_fewshot", 0)  # as lm-eval's simple_evaluate does
        assert ours[name].dump_config() == task.dump_config()
        assert task.VERSION == ours[name].VERSION == 1.0


def test_plain_text_lambada(tmp_path: Path) -> None:
    lines = [f"the {number}th text\u2028with a word {number}" for number in range(5153)]
    write_lines(tmp_path / "lambada" / "lambada_test_plain_text.txt", *lines)
    prepared = data.prepare_tasks(["lambada_standard"], tmp_path)
    task = prepared.task_dict["tasks"]["lambada_standard"]
    assert [document["text"] for document in task.eval_docs] == lines
    assert task.doc_to_text(task.eval_docs[7]) == "the 7th text\u2028with a word"
    assert task.doc_to_target(task.eval_docs[7]) == " 7"
    assert [file["published"] for file in prepared.sources["cimec/lambada"]["splits"]["test"]["files"]] == [None]


def test_parquet_as_the_hub_has_it(tmp_path: Path) -> None:
    documents = [{"text": f"text {number}\u2028 with a word", "domain": None} for number in range(3)]
    path = tmp_path / "cimec" / "lambada" / "test.parquet"
    path.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(documents), path)
    prepared = data.prepare_tasks(["lambada_standard"], tmp_path)
    assert [dict(document) for document in prepared.task_dict["tasks"]["lambada_standard"].eval_docs] == documents
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"<html>", b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"test\.parquet is not a complete Parquet file") as caught:
            data.find_tasks(["lambada_standard"], tmp_path)
        assert caught.value.where == str(path)


def test_the_data_folder_may_be_the_working_folder(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``datasets`` takes a name for a folder where there is one; the data folder goes first."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(published / "piqa", Path("baber/piqa"))
    prepared = data.prepare_tasks(["piqa"], Path())
    assert len(prepared.task_dict["tasks"]["piqa"].eval_docs) == STAND_INS


def test_values_of_two_types(tmp_path: Path) -> None:
    path = write_lines(tmp_path / OWN, {"text": "a b"}, {"text": 5})
    with pytest.raises(DataError) as caught:
        data.prepare_tasks(["lambada_openai"], tmp_path)
    assert caught.value.code == "bad_data"
    assert caught.value.where == str(path)


def test_fields_that_the_task_does_not_know(tmp_path: Path) -> None:
    write_lines(tmp_path / "baber/piqa/validation.jsonl", {"question": "a"})
    with pytest.raises(DataError, match="lm-eval cannot build the task piqa") as caught:
        data.prepare_tasks(["piqa"], tmp_path)
    assert caught.value.code == "bad_task"


def test_examples_from_the_training_split(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "piqa", tmp_path / "piqa")
    write_lines(
        tmp_path / "piqa" / "train.jsonl",
        *[{"goal": f"example {n}", "sol1": "one", "sol2": "two"} for n in range(16113)],
    )
    write_lines(tmp_path / "piqa" / "train-labels.lst", *["1"] * 16113)
    prepared = data.prepare_tasks(["piqa"], tmp_path, num_fewshot=2)
    task = prepared.task_dict["tasks"]["piqa"]
    assert task.config.num_fewshot == 2
    task.set_fewshot_seed(0)
    context = task.fewshot_context(task.eval_docs[0], num_fewshot=2)
    assert context.count("Question: example ") == context.count("\nAnswer: two\n\n") == 2
    assert prepared.sources["baber/piqa"]["splits"]["train"]["documents"] == 16113


def test_a_task_that_says_no_examples_has_none(tmp_path: Path) -> None:
    write_lines(tmp_path / "tasks" / "mine.yaml", *own_task("mine", "num_fewshot: 0"))
    write_lines(tmp_path / "me" / "words" / "test.jsonl", {"text": "a b"})
    prepared = data.prepare_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks", num_fewshot=3)
    assert prepared.task_dict["tasks"]["mine"].config.num_fewshot == 0


def test_tasks_of_the_users_own(tmp_path: Path) -> None:
    """A group of two tasks that share a template, one of them written out; as lm-eval itself makes it."""
    import lm_eval.tasks

    tasks = tmp_path / "tasks"
    write_lines(tasks / "base.txt", *own_task("base")[1:])
    write_lines(tasks / "a.yaml", "include: base.txt", '"task": own_a', "tag:", "  - own_tag", "dataset_name: first")
    write_lines(tasks / "b.yaml", "include: base.txt", "task: own_b", "tag: own_tag", "dataset_name: second")
    write_lines(
        tasks / "group.yaml",
        "group: own_group",
        "task:",
        "  - own_tag",
        "  - task: own_c",
        *[f"    {line}" for line in own_task("")[1:]],
        "    dataset_name: third",
        "aggregate_metric_list: [{metric: acc}]",
    )
    for number, name in enumerate(("first", "second", "third")):
        write_lines(tmp_path / "me" / "words" / name / "test.jsonl", *[{"text": f"{name} b"}] * (number + 1))
    prepared = data.prepare_tasks(["own_group"], tmp_path, include_path=tasks)
    built = prepared.task_dict["tasks"]
    assert {name: len(task.eval_docs) for name, task in built.items()} == {
        "own_a": 1,
        "own_b": 2,
        "own_group::own_c": 3,
    }
    assert prepared.sources["me/words/third"]["tasks"] == {"own_group::own_c": "test"}
    assert list(prepared.task_dict["groups"]) == ["own_group"]
    theirs = lm_eval.tasks.TaskManager(include_defaults=False, include_path=tasks)
    assert set(theirs.all_tasks) == {"own_a", "own_b", "own_group", "own_tag"} <= set(data.task_names(tasks))
    assert TaskCatalog(tasks).match(["own_?"]) == ["own_a", "own_b"]
    with pytest.raises(UsageError, match="own_a") as caught:
        data.prepare_tasks(["own_group", "own_a"], tmp_path, include_path=tasks)
    assert caught.value.code == "conflicting_options"


def test_a_split_that_the_data_lack_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "words" / "train.jsonl", {"text": "a"})
    task = own_task("mine", f"dataset_path: {tmp_path}/words")
    write_lines(tmp_path / "tasks" / "mine.yaml", *(line for line in task if line != "dataset_path: me/words"))
    with pytest.raises(DataError, match="the data of mine has no split test") as caught:
        data.prepare_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks")
    assert caught.value.code == "bad_task"


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOENT])
def test_a_cache_that_cannot_be_written_is_named(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "own.jsonl", {"text": "a"})
    files = f"dataset_kwargs: {{data_files: {{test: {tmp_path}/own.jsonl}}}}"
    task = [line for line in own_task("mine", "dataset_path: json", files) if line != "dataset_path: me/words"]
    write_lines(tmp_path / "tasks" / "mine.yaml", *task)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number), "/home/me/.cache")

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/home/me/.cache/huggingface/datasets")
    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(DataError, match=r"/home/me/\.cache cannot be written: ") as caught:
        data.prepare_tasks(["mine"], tmp_path, include_path=tmp_path / "tasks")
    assert caught.value.code == "unwritable_file"
    assert "HF_HOME" in caught.value.hint
