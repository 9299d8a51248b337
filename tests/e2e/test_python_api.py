"""The Python API gives the command's answers, on every process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neoxrun import LLM, SamplingParams
from support import python_api, unlike_processors
from support.command import neoxrun, records_of
from support.python_api import PARAMS, TEXTS, plain
from support.ranks import torchrun


@pytest.fixture(scope="module")
def right() -> list[dict[str, Any]]:
    with LLM("demo", device="cpu", dtype="fp32") as llm:
        return [plain(json.loads(record.to_json())) for record in llm.generate(TEXTS, PARAMS)]


def test_the_command_gives_the_same(right: list[dict[str, Any]], tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS))
    flags = ("--temperature", 0.9, "--top-p", 0.95, "--maximum-tokens", 12, "--logprobs", 1)
    flags += ("--repetition-penalty", 1, "--tp", 1, "--dtype", "fp32")
    neoxrun("generate", "demo", "-i", prompts, "-o", output, *flags).check_success()
    found = sorted(records_of(output), key=lambda record: record["id"])
    assert [plain(record) for record in found] == right


def test_every_process_gets_all_answers(right: list[dict[str, Any]], tmp_path: Path) -> None:
    torchrun(python_api.__file__, 2, 1, tmp_path, ranks=2)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    for path in files:
        assert [plain(record) for record in records_of(path)] == right, path.name


def test_processes_on_unlike_processors_agree_on_the_number_format(tmp_path: Path) -> None:
    torchrun(unlike_processors.__file__, tmp_path, ranks=2)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.iterdir())]
    with LLM("demo", device="cpu", dtype="bf16") as llm:
        (right,) = llm.generate(["import os"], SamplingParams(temperature=0, maximum_tokens=8))
    assert found == [{"weights": "bf16", "text": right.text}] * 2
