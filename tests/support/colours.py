"""A task of three documents, variants of it that are wrong, and JSON files."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

TASK = {
    "task": "colours",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "The colour of {{thing}} is",
    "doc_to_choice": ["red", "green", "blue"],
    "doc_to_target": "{{colour}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
DOCUMENTS = [
    {"thing": "blood", "colour": "red"},
    {"thing": "grass", "colour": "green"},
    {"thing": "the sky", "colour": "blue"},
]
# Variants of `colours` that are wrong: the change, and what the error says.
BROKEN = {
    "broken_template": ({"doc_to_text": "{{thing.name.first}}"}, "no attribute 'name'"),
    "broken_word": (
        {"doc_to_choice": ["red", "green"]},
        "document 2 (counted from 0) has 'blue' as its right answer, which is not one of its 2",
    ),
    "broken_number": (
        {"doc_to_target": "{{thing | length - 3}}"},
        "document 2 (counted from 0) has 4 as its right answer",
    ),
    "broken_type": (
        {"doc_to_target": "{{[thing | length - 3.0]}}"},
        "document 0 (counted from 0) has [2.0] as its right",
    ),
    "broken_metric": ({"metric_list": [{"metric": "acc_nrom"}]}, "'acc_nrom' is not known", "Did you mean acc_norm?"),
    "broken_aggregation": (
        {"metric_list": [{"metric": "acc", "aggregation": "nope", "higher_is_better": True}]},
        "'nope' is not known to lm-eval",
        "broken_aggregation.yaml:",
    ),
    "broken_option": (
        {"doc_to_txt": "x"},
        "unknown option doc_to_txt",
        "broken_option.yaml:",
        "Did you mean doc_to_text?",
    ),
    "broken_document": (
        {"doc_to_text": "{{thing}}{% if thing == 'grass' %}{{thing.name.first}}{% endif %}"},
        "at document 1 (counted from 0)",
    ),
}


def write_tasks(folder: Path) -> Path:
    """--include-path: `colours`, a group of it, and those of BROKEN."""
    data = folder / "colours.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    task = TASK | {"dataset_kwargs": {"data_files": {"test": str(data)}}}
    (folder / "colours.yaml").write_text(yaml.safe_dump(task))
    for name, wrong in BROKEN.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | {"task": name} | wrong[0]))
    group = {"group": "sights", "task": ["colours"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "sights.yaml").write_text(yaml.safe_dump(group))
    return folder


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path
