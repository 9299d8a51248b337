"""Files of documents and of tasks, as the tests of evaluations write them."""

from __future__ import annotations

import json
from pathlib import Path

from neoxrun.evaluation.published_data import DatasetName

PIQA = DatasetName("baber/piqa")
LAMBADA = DatasetName("EleutherAI/lambada_openai", "default")
PLAIN = DatasetName("cimec/lambada")
OWN = "EleutherAI/lambada_openai/test.jsonl"


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def objects(path: Path) -> list[dict]:
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
