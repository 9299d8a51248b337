"""Records as lines, and which of an earlier run's count as done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neoxrun.config.sampling import SamplingParams
from neoxrun.errors import DataError
from neoxrun.generation.prompts import Prompt
from neoxrun.generation.records import RECORD_CODES, Notice, Record, RecordWriter, finished_keys

PROMPTS = [Prompt(number, None, f"prompt {number}", SamplingParams()) for number in range(4)]
OLD = {"length": 3, "finished": False, "finish_reason": "length", "message": None, "duration_seconds": 0.1}


def test_the_code_stands_after_the_message() -> None:
    record = Record(0, None, "a", None, 0, False, "error", "too long", "prompt_too_long", 0.5)
    keys = ["id", "context", "text", "length", "finished", "finish_reason", "message", "code", "duration_seconds"]
    assert list(json.loads(record.to_json())) == keys
    fine = Record(0, 1, "a", "b", 1, True, "stop", None, None, 0.5, weights="random")
    values = json.loads(fine.to_json())
    assert (values["sample"], values["code"], values["weights"]) == (1, None, "random")


def test_keys_of_the_prompts_own_follow_and_replace_nothing() -> None:
    extra = {"label": "é", "text": "mine", "sample": 3, "input_text": None, "extra": {"a": [1]}}
    record = Record(0, None, "a", "b", 1, True, "stop", None, None, 0.5, extra=extra)
    values = json.loads(record.to_json())
    assert (values["text"], "sample" in values) == ("b", False)
    own = {"label": "é", "input_text": "mine", "input_sample": 3, "input_input_text": None, "extra": {"a": [1]}}
    assert list(values.items())[9:] == list(own.items())


def test_codes_are_words_and_sentences() -> None:
    for code, sentence in RECORD_CODES.items():
        assert code.replace("_", "").isalpha()
        assert code == code.lower()
        assert sentence[0].isupper()
        assert sentence.endswith(".")
    with pytest.raises(AssertionError, match="nonsense"):
        Notice("nonsense", "a message")


def test_records_from_before_there_were_codes_count(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    old = [{"id": n, "context": f"prompt {n}", "text": "x", **OLD} for n in range(3)]
    old[1] |= {"finish_reason": "error", "text": None, "message": "the prompt has 900 tokens"}
    path.write_text("".join(json.dumps(record) + "\n" for record in old))
    assert finished_keys(path, PROMPTS) == {(0, None), (2, None)}
    with (tmp_path / "stdout").open("w") as stdout:
        writer = RecordWriter(path, stdout, resume=True)
    new = Record(3, None, "prompt 3", "x", 1, False, "length", None, None, 0.5)
    writer.write(new)
    writer.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines[:2]] == [old[0], old[2]]
    assert lines[2] == new.to_json()
    assert finished_keys(path, PROMPTS) == {(0, None), (2, None), (3, None)}


def test_records_of_other_prompts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps({"id": 0, "context": "another prompt", **OLD}) + "\n")
    with pytest.raises(DataError, match="does not belong to these prompts") as caught:
        finished_keys(path, PROMPTS)
    assert caught.value.code == "foreign_record"
