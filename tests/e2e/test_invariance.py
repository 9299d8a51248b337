"""A request's answer depends on the request alone: not on its batch, the split or an interruption.

Greedy and sampled, in fp32, on the demo model; the splits through the real command.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command import neoxrun, records_of

PROMPTS = [
    "import os",
    "class Queue:\n    def __init__(self, name):\n        self.name = name\n\n    def put(self, item):\n",
    "",
    "# 日本語 🎉\u2028\n",
    "def read_file(path):",
    "for i in range(10):\n    print(i)\n" * 6,
    "import os",
]
KINDS = {
    "greedy": {},
    "free": {"temperature": 1.0},
    "narrow": {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
    "fair": {"temperature": 1.3, "min_p": 0.05, "repetition_penalty": 1.2},
    "varied": {"temperature": 0.7, "frequency_penalty": 0.4, "presence_penalty": 0.3, "logprobs": 2},
    "two": {"temperature": 0.9, "n": 2, "stop": ["\n\n", "self"]},
}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every prompt with every kind of sampling, of different lengths."""
    lines = [
        {
            "id": f"{kind}-{number}",
            "prompt": prompt,
            "maximum_tokens": 8 + 5 * ((number + index) % 4),
            **params,
        }
        for number, prompt in enumerate(PROMPTS)
        for index, (kind, params) in enumerate(KINDS.items())
    ]
    seeded = {"prompt": PROMPTS[0], "temperature": 1.0, "maximum_tokens": 8, "seed": 5}
    lines += [{"id": "seeded", **seeded}, {"id": "seeded-too", **seeded}]
    path = tmp_path_factory.mktemp("invariance") / "prompts.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def generate(prompts: Path, output: Path, *arguments: object) -> None:
    flags = ("--seed", 7, "--temperature", 0, "--top-p", 0, "--repetition-penalty", 1, "--dtype", "fp32")
    neoxrun("generate", "demo", "-i", prompts, "-o", output, *flags, *arguments).check_success()


def answers(path: Path) -> dict[tuple, dict]:
    """The records by id and sample, none twice, without the time they took; log-probabilities apart."""
    records = records_of(path)
    found = {(record["id"], record.get("sample")): record for record in records}
    assert len(found) == len(records), "no answer is given twice"
    for record in found.values():
        del record["duration_seconds"]
    return found


def check_same(mine: dict[tuple, dict], right: dict[tuple, dict]) -> None:
    assert mine.keys() == right.keys()
    for key, record in right.items():
        assert without_numbers(mine[key]) == without_numbers(record)
        for measured, expected in zip(mine[key].get("logprobs", []), record.get("logprobs", []), strict=True):
            assert measured["token"] == expected["token"]
            assert measured["logprob"] == pytest.approx(expected["logprob"], abs=1e-4)
            assert [token for token, _ in measured["top"]] == [token for token, _ in expected["top"]]


def without_numbers(record: dict) -> dict:
    return {name: value for name, value in record.items() if name != "logprobs"}


@pytest.fixture(scope="module")
def right(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, each request alone."""
    output = tmp_path_factory.mktemp("right") / "alone.jsonl"
    generate(prompts, output, "--tp", 1, "--batch-size", 1)
    return output


def test_there_is_something_to_get_wrong(right: Path) -> None:
    found = answers(right)
    assert len(found) == len(PROMPTS) * (len(KINDS) + 1) + 2
    assert len({record["text"] for record in found.values()}) > 0.9 * len(found), "the answers differ"
    assert {record["finish_reason"] for record in found.values()} >= {"length", "stop"}
    for number in range(len(PROMPTS)):
        first, second = (found[f"two-{number}", sample]["text"] for sample in (0, 1))
        assert first != second, "each sample has its own random stream"
    first, last = (found[f"free-{number}", None]["text"] for number in (0, len(PROMPTS) - 1))
    assert first[:9] != last[:9], "each prompt has its own random stream"
    assert found["seeded", None]["text"] == found["seeded-too", None]["text"], "unless it names its seed"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--tp", 1),
        ("--tp", 1, "--batch-size", 3),
        ("--tp", 2, "--batch-size", 5),
        ("--tp", 1, "--replicas", 2, "--batch-size", 2),
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_other_batches_and_splits(prompts: Path, right: Path, tmp_path: Path, arguments: tuple[object, ...]) -> None:
    generate(prompts, tmp_path / "out.jsonl", *arguments)
    check_same(answers(tmp_path / "out.jsonl"), answers(right))


@pytest.mark.parametrize(("kept", "split"), [(0, ("--tp", 1)), (9, ("--tp", 1, "--pp", 2))])
def test_resume_at_another_split(
    prompts: Path, right: Path, tmp_path: Path, kept: int, split: tuple[object, ...]
) -> None:
    """Cut in the middle of a line, as a kill leaves it; what was whole stays as it is."""
    lines = right.read_bytes().splitlines(keepends=True)
    whole = b"".join(lines[:kept])
    output = tmp_path / "out.jsonl"
    output.write_bytes(whole + lines[kept][: len(lines[kept]) // 2])
    generate(prompts, output, "--resume", *split)
    assert output.read_bytes().startswith(whole)
    assert len(records_of(output)) == len(lines)
    check_same(answers(output), answers(right))
    before = output.read_bytes()
    generate(prompts, output, "--resume", *split)
    assert output.read_bytes() == before, "there is nothing left to do"
