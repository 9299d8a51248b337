"""Documents in local files: where they may lie, whether they are the published ones, and what is wrong with them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from neoxrun.errors import DataError
from neoxrun.evaluation import data, local_data
from neoxrun.evaluation.published_data import DatasetName
from support.task_data import LAMBADA, OWN, PIQA, PLAIN, STAND_INS, write_lines


@pytest.mark.parametrize("folder", ["", "piqa", "baber/piqa"])
def test_where_published_files_may_lie(folder: str, published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "piqa", tmp_path / folder, dirs_exist_ok=True)
    assert len(local_data.read_split(PIQA, "validation", tmp_path).documents) == STAND_INS
    assert local_data.read_split(PIQA, "train", tmp_path) is None
    assert local_data.read_split(DatasetName("baber/piqa", "other"), "validation", tmp_path) is None


@pytest.mark.parametrize("folder", ["EleutherAI/lambada_openai", "EleutherAI/lambada_openai/default"])
def test_own_file_wins_and_says_whether_it_is_the_published_one(folder: str, published: Path, tmp_path: Path) -> None:
    lambada = published / "lambada" / "lambada_test.jsonl"
    shutil.copy(lambada, tmp_path)
    own = tmp_path / folder / "test.jsonl"
    own.parent.mkdir(parents=True)
    shutil.copy(lambada, own)
    assert [(file.path, file.published) for file in local_data.read_split(LAMBADA, "test", tmp_path).files] == [
        (own, True)
    ]
    write_lines(own, {"text": "my own"})
    split = local_data.read_split(LAMBADA, "test", tmp_path)
    assert (split.documents, split.files[0].published) == ([{"text": "my own"}], None)


def test_any_other_data_set(tmp_path: Path) -> None:
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

    prepared = data.prepare_tasks(["arc_easy"], tmp_path / "my data")
    task = prepared.task_dict["tasks"]["arc_easy"]
    assert list(task.eval_docs) == rows
    assert task.doc_to_choice(task.eval_docs[1]) == ["x", "y"]
    assert prepared.sources["allenai/ai2_arc/ARC-Easy"]["splits"]["test"]["documents"] == 3


QUESTION = {"goal": "a", "sol1": "b", "sol2": "c"}
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
    "too few texts": (
        {"lambada_test_plain_text.txt": b"a b\n"},
        "holds 1 documents instead of the 5153 that were published",
        None,
    ),
    "a text is empty": ({"lambada_test_plain_text.txt": b"a b\n\na b\n"}, "this line is empty", 2),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_file(case: str, tmp_path: Path) -> None:
    files, says, line = DAMAGE[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    dataset, split = (
        (PLAIN, "test") if "plain" in name else (PIQA, "validation") if "piqa" in name else (LAMBADA, "test")
    )
    with pytest.raises(DataError) as caught:
        local_data.read_split(dataset, split, tmp_path)
    assert says in caught.value.message
    assert line is None or caught.value.where == f"{tmp_path / name}:{line}"


LABELS = {
    "one label too few": (["0"] * 2, "3 questions, but train-labels.lst 2 labels", None),
    "no label": (["0", "2", "1"], "a label must be 0 or 1, not '2'", 2),
    "not all of them": (["0"] * 3, "3 documents instead of the 16113 that were published", None),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels(case: str, tmp_path: Path) -> None:
    labels, says, line = LABELS[case]
    write_lines(tmp_path / "piqa" / "train.jsonl", *[QUESTION] * 3)
    path = write_lines(tmp_path / "piqa" / "train-labels.lst", *labels)
    with pytest.raises(DataError) as caught:
        local_data.read_split(PIQA, "train", tmp_path)
    assert says in caught.value.message
    assert line is None or caught.value.where == f"{path}:{line}"
