"""The Python API gives the command's answers, on every process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neoxrun import LLM, SamplingParams
from support import failing_calls, python_api, unlike_processors
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


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2)])
def test_calls_that_fail_do_so_on_every_process_and_end_nothing_else(tp: int, pp: int, tmp_path: Path) -> None:
    """None of them waits for the others for ever: ``torchrun`` has a time limit."""
    torchrun(failing_calls.__file__, tp, pp, tmp_path, ranks=2)
    with LLM("demo", device="cpu", dtype="fp32") as llm:
        text = llm.generate("import os", max_tokens=4, temperature=0, ignore_eos=True).text
        (scored,) = llm.score([("import", " os")])
    first, second = (json.loads(path.read_text()) for path in sorted(tmp_path.iterdir()))
    last = {name: (first.pop(name), second.pop(name)) for name in ("in a step", "later")}
    assert first == second
    assert first == {
        "text": text,
        "prompt_too_long": "prompt_too_long",
        "none_left": ["prompt_too_long"],
        "out_of_memory": "out_of_memory",
        "text after it": text,
        "nonfinite_output": "nonfinite_output",
        "of a prompt": "nonfinite_output",
        "score": pytest.approx(scored.logprob, abs=2e-3),
        "between steps": "out_of_memory",
        "text at the end": text,
    }
    # Rank 1 cannot go on, and rank 0 hears of it when rank 1 has ended. Neither waits in a later call.
    assert last == {
        "in a step": ("lost_contact", "out_of_memory"),
        "later": (["lost_contact"] * 2, ["out_of_memory"] * 2),
    }
