"""What neoxrun generate does when nothing goes wrong: sources of prompts, outputs, sampling, records."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from neoxrun.config.settings import TokenizerConfig
from neoxrun.planning.devices import cpu_device
from neoxrun.tokenizer import Tokenizer, load_tokenizer
from support.command import answers_of, neoxrun, records_of
from support.paths import DEMO
from support.snapshots import Snapshot

ONE = ("--tp", "1", "--dtype", "fp32")
FIELDS = ["id", "context", "text", "length", "finished", "finish_reason", "message", "code", "duration_seconds"]


def greedy(tokens: int = 6) -> tuple[str, ...]:
    return (*ONE, "--temperature", "0", "--maximum-tokens", str(tokens))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(TokenizerConfig("HFTokenizer", DEMO / "tokenizer.json", None))


@pytest.mark.parametrize("split", [(), ("--tp", "2")], ids=["default", "two ranks"])
def test_text_file_and_the_default_output(split: tuple[str, ...], tmp_path: Path) -> None:
    """As a newcomer runs it: nothing on stdout, and on stderr only neoxrun's messages."""
    source = tmp_path / "prompts.txt"
    source.write_text("import os\n\n  class Queue:  \n", encoding="utf-8-sig")
    result = neoxrun("generate", "configs/demo.yml", "-i", source, "--maximum-tokens", "6", *split).check_success()
    assert result.out == ""
    lines = result.err.splitlines()
    if cpu_device().native_bf16:
        assert lines.pop(0) == "precision: fp16 -> bf16, which this CPU computes natively; --dtype fp32 is exact"
    assert lines[0].startswith("loaded 0.")
    assert re.match(r"2 \w+, 12 tokens in [\d.]+ s", lines[1])
    assert lines[1].endswith(f", in {tmp_path / 'prompts.txt.output.jsonl'}")
    assert len(lines) == 2
    records = records_of(tmp_path / "prompts.txt.output.jsonl")
    assert [(record["id"], record["context"]) for record in records] == [(0, "import os"), (1, "class Queue:")]
    for record in records:
        assert list(record) == FIELDS
        assert (record["length"], record["finish_reason"], record["finished"]) == (6, "length", False)
        assert record["message"] is record["code"] is None
        assert record["text"]


def test_jsonl_with_everything(tmp_path: Path, tokenizer: Tokenizer, snapshot: Snapshot) -> None:
    """One run with a parameter or a fault in every line; the faults become records and the others continue."""
    comma = tokenizer.encode("a,")[-1]
    lines = [
        {"prompt": "import os", "id": "plain"},
        {"context": "import os", "id": "short", "maximum_tokens": 2},
        {"prompt": "import os", "id": "several", "n": 3, "temperature": 1.0},
        {"prompt": "import os", "id": "seeded", "temperature": 1.0, "seed": 5},
        {"prompt": "import os", "id": "seeded too", "temperature": 1.0, "seed": 5},
        {"prompt": "import os", "id": "stopped", "stop": ["port"]},
        {"prompt": "import os", "id": "watched", "logprobs": 2, "maximum_tokens": 3},
        {"prompt": "import os", "id": "biased", "logit_bias": {str(comma): 100}, "maximum_tokens": 3},
        {"prompt": "x = 1\n" * 400, "id": "too long"},
        {"prompt": "import os", "id": "wrong bias", "logit_bias": {"99999": 1}},
        {"prompt": "", "id": "from nothing"},
        {"prompt": "naïve café ☕", "id": "not ASCII"},
    ]
    source, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = neoxrun("generate", "demo", "-i", source, "-o", output, *greedy(8))
    snapshot(result.check_error(4, "2 of 12", "--resume"))

    found: dict[str, list[dict]] = {}
    for record in records_of(output):
        found.setdefault(record["id"], []).append(record)
    assert list(map(len, map(found.get, (line["id"] for line in lines)))) == [3 if "n" in line else 1 for line in lines]
    one = {name: records[0] for name, records in found.items()}

    assert one["plain"]["length"] == 8
    assert one["plain"]["text"].startswith(one["short"]["text"])
    assert one["short"]["length"] == 2
    assert sorted(record["sample"] for record in found["several"]) == [0, 1, 2]
    assert len({record["text"] for record in found["several"]}) > 1
    assert "sample" not in one["plain"]
    assert one["seeded"]["text"] == one["seeded too"]["text"] != one["plain"]["text"]
    assert one["stopped"]["finish_reason"] == "stop"
    assert one["stopped"]["finished"] is True
    assert one["plain"]["text"].startswith(one["stopped"]["text"])
    assert "port" in one["plain"]["text"]
    assert "port" not in one["stopped"]["text"]
    watched = one["watched"]
    assert tokenizer.decode(watched["tokens"]) == watched["text"]
    for step, token in zip(watched["logprobs"], watched["tokens"], strict=True):
        assert step["token"] == token == step["top"][0][0]
        assert step["logprob"] == step["top"][0][1] <= 0
        assert len(step["top"]) == len(step["top_texts"]) == 2
    assert "".join(step["text"] for step in watched["logprobs"]) == watched["text"]
    assert one["biased"]["text"] == "," * 3
    faults = {"too long": ("prompt_too_long", "512"), "wrong bias": ("bad_logit_bias", "99999")}
    for name, (code, fact) in faults.items():
        assert one[name]["code"] == code
        assert (one[name]["finish_reason"], one[name]["text"], one[name]["length"]) == ("error", None, 0)
        assert fact in one[name]["message"]
        assert one[name]["message"] in result.err
    assert one["from nothing"]["length"] > 0
    assert one["not ASCII"]["context"] == "naïve café ☕"
    assert "☕" in output.read_text(encoding="utf-8")


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_keeps_the_other_side(side: str, tmp_path: Path) -> None:
    filling = "x = 1\n" * 400
    prompts = {
        "one": "import os\n" + filling + "class Queue:",
        "same start": "import os\n" + filling + "def read(",
        "same end": "class Stack:\n" + filling + "class Queue:",
        "short": "import os",
    }
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"id": name, "prompt": text}) + "\n" for name, text in prompts.items()))
    result = neoxrun(
        *("generate", "demo", "-i", source, "-o", "-", "--truncate", side, "--logprobs", "0", *greedy())
    ).check_success()
    found = {record["id"]: record for record in result.records}
    assert {name: record["context"] for name, record in found.items()} == prompts
    assert found["short"]["message"] is None
    assert f"cut on the {side}" in found["one"]["message"]
    assert (found["one"]["code"], found["short"]["code"]) == ("prompt_cut", None)

    def sureness(name: str) -> float:
        assert found[name]["length"] == 6
        return found[name]["logprobs"][0]["logprob"]

    alike, other = ("same end", "same start") if side == "left" else ("same start", "same end")
    assert sureness(alike) == pytest.approx(sureness("one"), abs=1e-5)
    assert sureness(other) != pytest.approx(sureness("one"), abs=1e-3)


def test_stdin_to_stdout_with_separator_stop_and_samples() -> None:
    text = "import os\nimport sys\n---\nclass Queue:\n---\n"
    result = neoxrun(
        *("generate", "demo", "-i", "-", "--prompt-end", r"\n---\n", "--stop", r"\n", "-n", "2", *ONE),
        *("--maximum-tokens", "12", "--seed", "7", "--batch-size", "2"),
        stdin=text,
    ).check_success()
    contexts = {record["id"]: record["context"] for record in result.records}
    assert contexts == {0: "import os\nimport sys", 1: "class Queue:"}
    assert sorted((record["id"], record["sample"]) for record in result.records) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert not any("\n" in record["text"] for record in result.records)
    again = neoxrun(
        *("generate", "demo", "-i", "-", "--prompt-end", r"\n---\n", "--stop", r"\n", "-n", "2", *ONE),
        *("--maximum-tokens", "12", "--seed", "7"),
        stdin=text,
    )
    assert answers_of(again.records) == answers_of(result.records), "a seed gives the same text in any batch"


def test_prompt_prints_plain_text_and_how_much_is_said() -> None:
    arguments = ("generate", "demo", "--prompt", "import os", *greedy())
    quiet = neoxrun("-m", "neoxrun", *arguments, "-q", command=[sys.executable]).check_success()
    assert quiet.err == ""
    verbose = neoxrun(*arguments, "-o", "-", "-v").check_success()
    assert (
        "ignored, since they do not change what the model computes: attention_dropout, hidden_dropout\n" in verbose.err
    )
    assert quiet.out == verbose.records[0]["text"] + "\n"


def test_writing_freely(tmp_path: Path) -> None:
    result = neoxrun("generate", "demo", "-n", "3", "--maximum-tokens", "5", *ONE, cwd=tmp_path).check_success()
    assert result.out == ""
    records = records_of(tmp_path / "samples.txt")
    assert sorted(record["id"] for record in records) == [0, 1, 2]
    assert all(record["context"] == "" for record in records)
    assert len({record["text"] for record in records}) > 1


def test_random_weights_need_no_checkpoint_and_say_so(snapshot: Snapshot) -> None:
    result = neoxrun(
        *("generate", "pythia-14m", "--tokenizer", DEMO / "tokenizer.json", "--random-weights", *greedy()),
        *("--prompt", "import os", "-o", "-"),
    ).check_success()
    assert result.records[0]["weights"] == "random"
    assert "random" in result.err
    snapshot(result, output=False)


def test_resume_of_a_finished_file_has_nothing_to_do(tmp_path: Path, snapshot: Snapshot) -> None:
    output = tmp_path / "out.jsonl"
    record = '{"id": 0, "context": "import os", "text": "..."}\n'
    output.write_text(record + '{"id": 1, "cont')
    result = neoxrun("generate", "demo", "--prompt", "import os", "-o", output, "--resume").check_success()
    assert str(output) in result.err
    snapshot(result)
    assert output.read_text() == record, "the half-written line is gone"
    assert result.cpu_seconds < 1, "no torch for that"
