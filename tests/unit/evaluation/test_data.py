"""The documents of tasks: local files as published or by split, the hub where it is needed, errors that say why."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation import data, hub, local_data
from neoxrun.evaluation.catalog import Catalog
from neoxrun.evaluation.local_data import DatasetName
from support.paths import ROOT

PIQA = DatasetName("baber/piqa")
LAMBADA = DatasetName("EleutherAI/lambada_openai", "default")
PLAIN = DatasetName("cimec/lambada")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    """Nothing in this process asks the hub; tests of the network use processes of their own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "no cache"))


@pytest.fixture(scope="session")
def catalog():
    return Catalog()


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def objects(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- local files ------------------------------------------------------------------------------------------------


def test_published_files(shared):
    prepared = data.prepare(["lambada_openai", "piqa"], shared / "data")
    lambada, piqa = (prepared.task_dict["tasks"][name] for name in ("lambada_openai", "piqa"))

    texts = objects(shared / "data" / "lambada" / "lambada_test.jsonl")
    assert len(lambada.eval_docs) == 5153
    assert list(lambada.eval_docs) == texts
    assert lambada.eval_docs[0]["text"].startswith("In my palm is a clear stone")
    assert lambada.doc_to_target(lambada.eval_docs[0]) == " signs"

    questions = objects(shared / "data" / "piqa" / "valid.jsonl")
    labels = (shared / "data" / "piqa" / "valid-labels.lst").read_text().split()
    assert len(piqa.eval_docs) == 1838
    assert list(piqa.eval_docs) == [
        question | {"label": int(label)} for question, label in zip(questions, labels, strict=True)
    ]
    assert list(piqa.eval_docs[0]) == ["goal", "sol1", "sol2", "label"]  # their order counts in lm-eval's hashes
    assert piqa.doc_to_choice(piqa.eval_docs[-1])[piqa.doc_to_target(piqa.eval_docs[-1])] in questions[-1].values()

    source = prepared.sources["baber/piqa"]
    assert (source["from"], source["tasks"]) == ("local files", {"piqa": "validation"})
    assert source["splits"]["validation"]["documents"] == 1838
    assert [(Path(file["path"]).name, file["published"]) for file in source["splits"]["validation"]["files"]] == [
        ("valid.jsonl", True),
        ("valid-labels.lst", True),
    ]
    json.dumps(prepared.sources)


def test_configuration_is_lm_evals_own(shared, monkeypatch):
    """As lm-eval builds the same tasks from the hub: only the documents were handed over."""
    import datasets
    import lm_eval.tasks

    ours = data.prepare(["lambada_openai", "piqa"], shared / "data").task_dict["tasks"]
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


@pytest.mark.parametrize("folder", ["", "piqa", "baber/piqa"])
def test_where_published_files_may_lie(folder, shared, tmp_path):
    shutil.copytree(shared / "data" / "piqa", tmp_path / folder, dirs_exist_ok=True)
    assert len(local_data.read(PIQA, "validation", tmp_path).documents) == 1838
    assert local_data.read(PIQA, "train", tmp_path) is None
    assert local_data.read(DatasetName("baber/piqa", "other"), "validation", tmp_path) is None


@pytest.mark.parametrize("folder", ["EleutherAI/lambada_openai", "EleutherAI/lambada_openai/default"])
def test_own_file_wins_and_says_whether_it_is_the_published_one(folder, shared, tmp_path):
    published = shared / "data" / "lambada" / "lambada_test.jsonl"
    shutil.copy(published, tmp_path)
    own = tmp_path / folder / "test.jsonl"
    own.parent.mkdir(parents=True)
    shutil.copy(published, own)
    assert [(file.path, file.published) for file in local_data.read(LAMBADA, "test", tmp_path).files] == [(own, True)]
    write(own, {"text": "my own"})
    split = local_data.read(LAMBADA, "test", tmp_path)
    assert (split.documents, split.files[0].published) == ([{"text": "my own"}], None)


def test_plain_text_lambada(tmp_path):
    lines = [f"the {number}th text\u2028with a word {number}" for number in range(5153)]
    write(tmp_path / "lambada" / "lambada_test_plain_text.txt", *lines)
    prepared = data.prepare(["lambada_standard"], tmp_path)
    task = prepared.task_dict["tasks"]["lambada_standard"]
    assert [document["text"] for document in task.eval_docs] == lines
    assert task.doc_to_text(task.eval_docs[7]) == "the 7th text\u2028with a word"
    assert task.doc_to_target(task.eval_docs[7]) == " 7"
    assert [file["published"] for file in prepared.sources["cimec/lambada"]["splits"]["test"]["files"]] == [None]


def test_parquet_as_the_hub_has_it(tmp_path):
    documents = [{"text": f"text {number}\u2028 with a word", "domain": None} for number in range(3)]
    path = tmp_path / "cimec" / "lambada" / "test.parquet"
    path.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(documents), path)
    prepared = data.prepare(["lambada_standard"], tmp_path)
    assert [dict(document) for document in prepared.task_dict["tasks"]["lambada_standard"].eval_docs] == documents
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"<html>", b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"test\.parquet is not a whole Parquet file") as caught:
            data.find(["lambada_standard"], tmp_path)
        assert caught.value.where == str(path)


def test_the_data_folder_may_be_the_working_folder(shared, tmp_path, monkeypatch):
    """``datasets`` takes a name for a folder where there is one; the data folder goes first."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shared / "data" / "piqa", Path("baber/piqa"))
    prepared = data.prepare(["piqa"], Path())
    assert len(prepared.task_dict["tasks"]["piqa"].eval_docs) == 1838


def test_tasks_whose_own_files_are_there_need_no_hub(tmp_path, monkeypatch):
    write(tmp_path / "own.jsonl", {"text": "a b"})
    write(
        tmp_path / "tasks" / "own.yaml",
        "task: own",
        "dataset_path: json",
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/own.jsonl}}}}",
        "test_split: test",
        "output_type: loglikelihood_rolling",
        'doc_to_text: ""',
        'doc_to_target: "{{text}}"',
    )
    monkeypatch.setattr(hub, "why_not", lambda: pytest.fail("the hub was asked"))
    assert data.find(["own"], tmp_path, include_path=tmp_path / "tasks").offline is not None
    (tmp_path / "own.jsonl").unlink()
    asked = []
    monkeypatch.setattr(hub, "why_not", lambda: asked.append(True))
    data.find(["own"], tmp_path, include_path=tmp_path / "tasks")
    assert asked


def test_any_other_data_set(tmp_path):
    """<data set>/<configuration>/<split>.jsonl, as the hint's own command writes it."""
    import datasets

    rows = [
        {"id": str(n), "question": f"why {n}?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}
        for n in range(3)
    ]
    dataset = DatasetName("allenai/ai2_arc", "ARC-Easy")
    make, python = local_data.fetch_command(dataset, "test", tmp_path / "my data").split(" && ")
    subprocess.run(shlex.split(make), check=True)
    asked = []
    hub = pytest.MonkeyPatch()
    hub.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or datasets.Dataset.from_list(rows))
    exec(shlex.split(python)[-1], {})
    hub.undo()
    assert asked == [(("allenai/ai2_arc", "ARC-Easy"), {"split": "test"})]

    prepared = data.prepare(["arc_easy"], tmp_path / "my data")
    task = prepared.task_dict["tasks"]["arc_easy"]
    assert list(task.eval_docs) == rows
    assert task.doc_to_choice(task.eval_docs[1]) == ["x", "y"]
    assert prepared.sources["allenai/ai2_arc/ARC-Easy"]["splits"]["test"]["documents"] == 3


# --- what is wrong with a file ----------------------------------------------------------------------------------

QUESTION = {"goal": "a", "sol1": "b", "sol2": "c"}
OWN = "EleutherAI/lambada_openai/test.jsonl"
DAMAGE = {
    "another file under the published name": ({"lambada_test.jsonl": b'{"text": "a b"}\n'}, "4aa8d02cd17c", None),
    "labels missing": ({"piqa/valid.jsonl": b"{}\n"}, "valid-labels.lst is missing", None),
    "empty": ({OWN: b"\n"}, "test.jsonl is empty", None),
    "not JSON": ({OWN: b'{"text": "a b"}\n{"text": \n'}, "not JSON", 2),
    "cut off": ({OWN: b'{"text": "a b"}\n{"text": "a'}, "not JSON", 2),
    "no object": ({OWN: b'["a b"]\n'}, "not a JSON object", 1),
    "a blank line": ({OWN: b'{"text": "a b"}\n\n{"text": "a b"}\n'}, "not JSON", 2),
    "other keys": ({OWN: b'{"text": "a b"}\n{"txt": "a b"}\n'}, '"text" is in this line or in the first', 2),
    "not UTF-8": ({OWN: b'{"text": "a b"}\n{"text": "\xff"}\n'}, "byte 0xff at offset 26", 2),
    "half a character": ({OWN: rb'{"text": "a \ud800"}' + b"\n"}, "not valid Unicode", 1),
    "too few texts": ({"lambada_test_plain_text.txt": b"a b\n"}, "holds 1 documents, and 5153 were published", None),
    "a text is empty": ({"lambada_test_plain_text.txt": b"a b\n\na b\n"}, "this line is empty", 2),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_file(case, tmp_path):
    files, says, line = DAMAGE[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    dataset, split = (
        (PLAIN, "test") if "plain" in name else (PIQA, "validation") if "piqa" in name else (LAMBADA, "test")
    )
    with pytest.raises(DataError) as caught:
        local_data.read(dataset, split, tmp_path)
    assert says in caught.value.message
    assert line is None or caught.value.where == f"{tmp_path / name}:{line}"


def test_one_changed_byte_is_told(shared, tmp_path):
    content = bytearray((shared / "data" / "lambada" / "lambada_test.jsonl").read_bytes())
    content[1000] ^= 1
    changed = tmp_path / "lambada_test.jsonl"
    changed.write_bytes(content)
    with pytest.raises(DataError) as caught:
        data.find(["lambada_openai"], tmp_path)
    error = caught.value
    assert error.where == str(changed)
    assert "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226" in error.message
    assert f"Remove it and fetch it again: neoxrun download --tasks lambada_openai --to {tmp_path}" in error.hint
    assert str(tmp_path / "EleutherAI/lambada_openai/default/test.jsonl") in error.hint


LABELS = {
    "one label too few": (["0"] * 2, "3 questions, and train-labels.lst 2 labels", None),
    "no label": (["0", "2", "1"], "a label is 0 or 1, not '2'", 2),
    "not all of them": (["0"] * 3, "3 documents, and 16113 were published", None),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels(case, tmp_path):
    labels, says, line = LABELS[case]
    write(tmp_path / "piqa" / "train.jsonl", *[QUESTION] * 3)
    path = write(tmp_path / "piqa" / "train-labels.lst", *labels)
    with pytest.raises(DataError) as caught:
        local_data.read(PIQA, "train", tmp_path)
    assert says in caught.value.message
    assert line is None or caught.value.where == f"{path}:{line}"


def test_values_of_two_types(tmp_path):
    path = write(tmp_path / OWN, {"text": "a b"}, {"text": 5})
    with pytest.raises(DataError) as caught:
        data.prepare(["lambada_openai"], tmp_path)
    assert caught.value.where == str(path)


def test_fields_that_the_task_does_not_know(tmp_path):
    write(tmp_path / "baber/piqa/validation.jsonl", {"question": "a"})
    with pytest.raises(DataError, match="lm-eval cannot build piqa"):
        data.prepare(["piqa"], tmp_path)


def test_unreadable_folder_and_default(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="does not exist"):
        data.find(["piqa"], tmp_path / "typo")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data.default_data_dir() == tmp_path / "neoxrun" / "data"
    with pytest.raises(DataError, match="there is no data for piqa"):  # the default folder need not exist
        data.find(["piqa"], data.default_data_dir())


# --- few-shot examples ------------------------------------------------------------------------------------------


def test_examples_are_never_drawn_from_the_scored_split(shared):
    with pytest.raises(DataError) as caught:
        data.find(["piqa"], shared / "data", num_fewshot=2)
    assert "needs train for its 2 few-shot examples" in caught.value.message
    assert "train-labels.lst" in caught.value.hint
    with pytest.raises(UsageError, match="they would come from test, the split that is scored"):
        data.find(["lambada_openai"], shared / "data", num_fewshot=2)
    without = data.prepare(["piqa"], shared / "data").task_dict["tasks"]["piqa"]
    with pytest.raises(AssertionError, match="no documents available"):
        without.fewshot_context(without.eval_docs[0], num_fewshot=2)


def test_examples_from_the_training_split(shared, tmp_path):
    shutil.copytree(shared / "data" / "piqa", tmp_path / "piqa")
    write(
        tmp_path / "piqa" / "train.jsonl",
        *[{"goal": f"example {n}", "sol1": "one", "sol2": "two"} for n in range(16113)],
    )
    write(tmp_path / "piqa" / "train-labels.lst", *["1"] * 16113)
    prepared = data.prepare(["piqa"], tmp_path, num_fewshot=2)
    task = prepared.task_dict["tasks"]["piqa"]
    assert task.config.num_fewshot == 2
    task.set_fewshot_seed(0)
    context = task.fewshot_context(task.eval_docs[0], num_fewshot=2)
    assert context.count("Question: example ") == context.count("\nAnswer: two\n\n") == 2
    assert prepared.sources["baber/piqa"]["splits"]["train"]["documents"] == 16113


def test_a_task_that_says_no_examples_has_none(tmp_path):
    write(tmp_path / "tasks" / "mine.yaml", *own_task("mine", "num_fewshot: 0"))
    write(tmp_path / "me" / "words" / "test.jsonl", {"text": "a b"})
    prepared = data.prepare(["mine"], tmp_path, include_path=tmp_path / "tasks", num_fewshot=3)
    assert prepared.task_dict["tasks"]["mine"].config.num_fewshot == 0


# --- names ------------------------------------------------------------------------------------------------------


def own_task(name: str, *more: str) -> list[str]:
    return [
        f"task: {name}",
        "dataset_path: me/words",
        "output_type: loglikelihood",
        "test_split: test",
        'doc_to_text: "{{text}}"',
        'doc_to_target: "b"',
        *more,
    ]


def test_names_tags_groups_and_globs(catalog):
    assert catalog.match(["piqa", "lambada", "piqa"]) == ["piqa", "lambada"]
    assert catalog.match(["lambada_openai,piqa"]) == ["lambada_openai", "piqa"]
    assert [task for task, _ in catalog.select(["lambada"]).tasks] == ["lambada_openai", "lambada_standard"]
    assert catalog.match(["lambada_s*d"]) == ["lambada_standard"]
    assert {"lambada_openai", "lambada_standard"} < set(catalog.match(["lambada*"]))
    assert "lambada" not in catalog.match(["lambada*"])  # a tag of tasks that match already
    assert len(catalog.select(["mmlu"]).tasks) == 57


def test_unknown_names(catalog):
    with pytest.raises(DataError) as caught:
        catalog.match(["piqa", "lambada_opena"])
    assert caught.value.message == "there is no task 'lambada_opena'"
    assert "The nearest names are lambada_openai," in caught.value.hint
    with pytest.raises(DataError, match=r"'no_such_\*'"):
        catalog.match(["no_such_*"])
    with pytest.raises(UsageError):
        catalog.match([" , "])


@pytest.mark.slow
def test_names_are_all_of_lm_evals(catalog):
    import lm_eval.tasks

    theirs = lm_eval.tasks.TaskManager().task_index
    assert catalog.names == sorted(theirs)
    selection = catalog.select(catalog.names)
    for name, entry in theirs.items():
        ours = selection.known[name]
        assert (ours.kind == "tag") == (entry.kind.name == "TAG")
        assert (ours.kind == "group") == (entry.kind.name == "GROUP")
        assert ours.path == entry.yaml_path
        assert entry.kind.name != "TAG" or set(ours.tasks) == entry.tags


def test_tasks_of_the_users_own(tmp_path):
    """A group of two tasks that share a template, one of them written out; as lm-eval itself makes it."""
    import lm_eval.tasks

    tasks = tmp_path / "tasks"
    write(tasks / "base.txt", *own_task("base")[1:])
    write(tasks / "a.yaml", "include: base.txt", '"task": own_a', "tag:", "  - own_tag", "dataset_name: first")
    write(tasks / "b.yaml", "include: base.txt", "task: own_b", "tag: own_tag", "dataset_name: second")
    write(
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
        write(tmp_path / "me" / "words" / name / "test.jsonl", *[{"text": f"{name} b"}] * (number + 1))
    prepared = data.prepare(["own_group"], tmp_path, include_path=tasks)
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
    assert Catalog(tasks).match(["own_?"]) == ["own_a", "own_b"]
    with pytest.raises(UsageError, match="own_a"):
        data.prepare(["own_group", "own_a"], tmp_path, include_path=tasks)


def test_wrong_task_files(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        Catalog(tmp_path / "typo").match(["piqa"])
    path = write(tmp_path / "own.yaml", "task: own", "tag: [one")
    with pytest.raises(DataError, match="not valid YAML") as caught:
        Catalog(tmp_path).match(["piqa"])
    assert caught.value.where.startswith(str(path))
    write(path, "task: own", "include: missing.yaml")
    with pytest.raises(DataError, match=r"missing.yaml cannot be read"):
        Catalog(tmp_path).match(["piqa"])


@pytest.mark.parametrize("line", ["dataset_kwargs: abc", "fewshot_config: abc"])
def test_values_of_other_types_in_task_files(line, tmp_path):
    lines = ["task: own", "tag: 5", "dataset_path: own/set", "test_split: test", "num_fewshot: 1", line]
    write(tmp_path / "own.yaml", *lines)
    with pytest.raises(DataError, match="own is not as lm-eval takes it") as caught:
        data.find(["own"], tmp_path, include_path=tmp_path)
    assert line.partition(":")[0] in caught.value.hint


def test_a_group_in_itself(tmp_path):
    path = write(tmp_path / "one.yaml", "group: one", "task: [two]")
    write(tmp_path / "two.yaml", "group: two", "task: [one]")
    with pytest.raises(DataError, match="one contains itself") as caught:
        data.find(["one"], tmp_path, include_path=tmp_path)
    assert caught.value.where == str(path)


# --- the network ------------------------------------------------------------------------------------------------

# Every call for a socket that reaches out is written down.
WATCH = """
import sys
REACHED = []
def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
        REACHED.append(event)
sys.addaudithook(watch)
"""


def run_alone(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python, without this one's HF_* settings."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()
    }
    return subprocess.run(
        [sys.executable, "-c", WATCH + textwrap.dedent(program), *map(str, arguments)],
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_no_call_is_made_with_the_data_at_hand(shared, tmp_path):
    """A whole evaluation, with lm-eval's own stand-in for a model."""
    done = run_alone(
        """
        from pathlib import Path
        from neoxrun.evaluation import data
        found = data.find(["lambada_openai", "piqa"], Path(sys.argv[1]))
        assert not {"datasets", "lm_eval", "pyarrow", "torch"} & set(sys.modules), "finding takes no heavy import"
        prepared = data.load(found)
        import datasets.config
        from lm_eval.evaluator import evaluate
        from lm_eval.models.dummy import DummyLM
        assert datasets.config.HF_HUB_OFFLINE
        results = evaluate(DummyLM(), prepared.task_dict, limit=8, bootstrap_iters=0)
        assert results["n-samples"]["lambada_openai"] == {"original": 5153, "effective": 8}
        assert results["n-samples"]["piqa"] == {"original": 1838, "effective": 8}
        assert not REACHED, REACHED
        """,
        shared / "data",
        HF_HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr


MISSING = """
    import json, time
    from pathlib import Path
    from neoxrun.errors import DataError
    from neoxrun.evaluation import data
    begin = time.monotonic()
    try:
        data.prepare(["piqa", "lambada"], Path(sys.argv[1]))
    except DataError as error:
        assert not {"datasets", "lm_eval", "pyarrow", "torch"} & set(sys.modules)
        print(json.dumps([error.message, error.hint, time.monotonic() - begin, REACHED]))
"""


def refused(*arguments: object, **environment: str) -> tuple[str, str, float, list[str]]:
    done = run_alone(MISSING, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


def test_missing_data_on_a_dead_network(shared, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    message, hint, seconds, reached = refused(shared / "data", HF_ENDPOINT=address, HF_HOME=str(tmp_path))
    assert message.startswith(f"there is no data for lambada_standard (cimec/lambada), and {address} cannot be reached")
    assert "lambada_test_plain_text.txt" in hint
    assert f"neoxrun download --tasks lambada_standard --to {shared / 'data'}" in hint
    assert "The data of piqa, lambada_openai is there" in hint
    assert reached  # the watch sees what happens
    assert seconds < 20


def test_missing_data_on_a_network_that_swallows_packets(tmp_path):
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    asked.append(server.accept())  # and no answer, ever
                except OSError:
                    return

        threading.Thread(target=listen, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        message, hint, seconds, _ = refused(tmp_path, HF_ENDPOINT=address, HF_HOME=str(tmp_path))
        server.shutdown(socket.SHUT_RDWR)
    assert "piqa (baber/piqa), lambada_openai (EleutherAI/lambada_openai/default)" in message
    assert f"neoxrun download --tasks piqa --to {tmp_path}" in hint
    assert f"neoxrun download --tasks lambada_openai --to {tmp_path}" in hint
    assert len(asked) == 1, "one question is enough"
    assert seconds < 20


class HubWithoutDataSets(BaseHTTPRequestHandler):
    """It answers, and knows nothing."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


def test_the_hub_does_not_have_it(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), HubWithoutDataSets) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = run_alone(
            """
            from pathlib import Path
            from neoxrun.errors import DataError
            from neoxrun.evaluation import data
            found = data.find(["arc_easy"], Path(sys.argv[1]))
            assert found.offline is None
            try:
                data.load(found)
            except DataError as error:
                print(error.render())
            """,
            tmp_path,
            HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
            HF_HOME=str(tmp_path),
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert "error: the data set allenai/ai2_arc/ARC-Easy cannot be loaded (" in done.stdout
    assert f"{tmp_path}/allenai/ai2_arc/ARC-Easy/test.jsonl" in done.stdout


def test_a_proxy_is_asked(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
    message, *_ = refused(tmp_path, HF_ENDPOINT="http://hub.invalid", http_proxy=proxy, HF_HOME=str(tmp_path))
    assert "http://hub.invalid cannot be reached (ConnectError: [Errno 111] Connection refused)" in message


def test_the_user_says_offline(tmp_path):
    message, _, _, reached = refused(tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert message.endswith("and HF_HUB_OFFLINE is set")
    assert not reached


def test_what_datasets_has_cached_needs_no_hub(tmp_path):
    """A cache as `datasets` leaves it behind, here made from a local file."""
    program = """
        import shutil
        from pathlib import Path
        import datasets
        folder = Path(sys.argv[1])
        files = {"test": str(folder / "a.jsonl")}
        made = datasets.load_dataset("json", data_files=files, cache_dir=str(folder / "made"))
        before = Path(made["test"].cache_files[0]["filename"]).parent
        after = folder / "datasets" / "EleutherAI___lambada_openai" / "default" / "0.0.0" / "abc"
        shutil.copytree(before, after)
        (after / "json-test.arrow").rename(after / "lambada_openai-test.arrow")
        info = after / "dataset_info.json"
        text = info.read_text().replace('"dataset_name": "json"', '"dataset_name": "lambada_openai"')
        info.write_text(text.replace(f'"config_name": "{made["test"].info.config_name}"', '"config_name": "default"'))
    """
    write(tmp_path / "a.jsonl", {"text": "a b"}, {"text": "c d"})
    done = run_alone(program, tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_alone(
        """
        from pathlib import Path
        from neoxrun.evaluation import data
        prepared = data.prepare(["lambada_openai"], Path(sys.argv[1]))
        print(list(prepared.task_dict["tasks"]["lambada_openai"].eval_docs), prepared.sources)
        """,
        tmp_path,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "{'text': 'c d'}" in done.stdout
    assert "'from': 'Hugging Face cache'" in done.stdout


def test_names_are_found_fast():
    begin = time.process_time()
    Catalog().match(["piqa"])
    assert time.process_time() - begin < 5, "lm-eval's own index takes ten seconds"
