"""Files of documents and of tasks, as the tests of evaluations write them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from neoxrun.evaluation.published_data import DatasetName
from support.paths import FIXTURES

PIQA = DatasetName("baber/piqa")
LAMBADA = DatasetName("EleutherAI/lambada_openai", "default")
PLAIN = DatasetName("cimec/lambada")
OWN = "EleutherAI/lambada_openai/test.jsonl"

STAND_INS = 32
"""Documents of each stand-in for a published data set."""

_SHAKESPEARE = (FIXTURES / "shakespeare.txt").read_text(encoding="utf-8")


def lambada_documents() -> list[dict[str, str]]:
    """Passages whose last word is to be found, in LAMBADA's form. Every second one has quotes outside ASCII."""
    documents = []
    for number in range(STAND_INS):
        start = _SHAKESPEARE.index("\n\n", 1000 * number) + 2
        words = " ".join(_SHAKESPEARE[start : start + 420].split()[:-1])
        text = re.sub(r"\W+$", "", words)
        documents.append({"text": text.replace("'", "\u2019") if number % 2 else text})
    return documents


def piqa_documents() -> list[dict[str, Any]]:
    """Questions with two answers and the number of the right one, in PIQA's form."""
    lines = [line for line in _SHAKESPEARE.splitlines() if len(line) > 30]
    return [
        {"goal": lines[3 * n], "sol1": lines[3 * n + 1], "sol2": lines[3 * n + 2], "label": n % 2}
        for n in range(STAND_INS)
    ]


def write_hub_form(folder: Path) -> Path:
    """A data folder with the stand-ins for LAMBADA and PIQA, named as the hub names its data sets and splits."""
    write_lines(folder / OWN, *lambada_documents())
    write_lines(folder / "baber/piqa/validation.jsonl", *piqa_documents())
    return folder


def write_published_form(folder: Path) -> Path:
    """A data folder with the stand-ins for LAMBADA and PIQA, in the files that their authors published."""
    write_lines(folder / "lambada/lambada_test.jsonl", *lambada_documents())
    questions = piqa_documents()
    write_lines(folder / "piqa/valid-labels.lst", *[str(question.pop("label")) for question in questions])
    write_lines(folder / "piqa/valid.jsonl", *questions)
    return folder


def write_lines(path: Path, *lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def read_objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
