"""A chat model as it is published: its conversations, and where its answers end, compared with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.chat_model import MESSAGES, NEW, ROWS, TOKENIZER, Chat, write_chat_model
from support.command import neoxrun
from support.snapshots import Snapshot
from support.tokenizer_kinds import added, byte_level, write_kind


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    return write_chat_model(tmp_path_factory.mktemp("chat"))


def generate(chat: Chat, *arguments: object, lines: list[object], **how: Any) -> list[dict[str, Any]]:
    asked = ("--chat", "-", "-o", "-", "--maximum-tokens", NEW, "--temperature", 0, "--logprobs", 0, "--dtype", "fp32")
    text = "\n".join(map(json.dumps, lines))
    return neoxrun("generate", chat.config, *asked, *arguments, stdin=text, **how).check_success().records


@pytest.mark.parametrize("tp", [1, 2])
def test_conversations_are_answered_as_by_transformers(chat: Chat, tp: int) -> None:
    lines = [{"messages": MESSAGES, "id": "a"}, MESSAGES]
    first, second = sorted(generate(chat, "--tp", tp, lines=lines), key=lambda record: str(record["id"]), reverse=True)
    assert (first["id"], second["id"]) == ("a", 1)
    for record in (first, second):
        assert record["context"] == chat.prompt
        assert record["tokens"][: len(chat.before) + 1] == [*chat.before, 401]
        assert (record["length"], record["finish_reason"]) == (NEW, "length")


@pytest.mark.parametrize("ends", [401, [0, 401]])
def test_an_answer_ends_at_the_models_own_end_ids(ends: object, chat: Chat) -> None:
    path = chat.folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": ends}))
    try:
        (record,) = generate(chat, lines=[MESSAGES])
        assert (record["tokens"], record["text"], record["finish_reason"]) == (chat.before, chat.text, "stop")
        (record,) = generate(chat, "--ignore-eos", lines=[MESSAGES])
        assert (record["length"], record["finish_reason"]) == (NEW, "length")
    finally:
        path.unlink()


def test_an_answer_ends_at_a_special_token_that_stop_names(chat: Chat) -> None:
    (record,) = generate(chat, "--stop", "<|im_end|>", lines=[MESSAGES])
    assert (record["text"], record["finish_reason"], record["finished"]) == (chat.text, "stop", True)
    assert record["tokens"] == [*chat.before, 401]


def test_messages_in_a_file_of_prompts(chat: Chat, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"messages": MESSAGES}) + "\n" + json.dumps({"prompt": "Hi", "n": 2}) + "\n")
    asked = ("-i", prompts, "--maximum-tokens", 2, "--dtype", "fp32")
    neoxrun("generate", chat.config, *asked).check_success()
    records = [json.loads(line) for line in (tmp_path / "prompts.jsonl.output.jsonl").read_text().splitlines()]
    assert sorted(record["context"] for record in records) == sorted([chat.prompt, "Hi", "Hi"])


def test_conversations_that_cannot_be_rendered(chat: Chat, tmp_path: Path, snapshot: Snapshot) -> None:
    (tmp_path / "chat.jsonl").write_text(json.dumps([{"role": "system", "content": "Be brief."}, *MESSAGES]))
    asked = ("--chat", "chat.jsonl")
    refused = neoxrun("generate", chat.config, *asked, cwd=tmp_path)
    refused.check_error(4, "there is no system role", where="chat.jsonl:1")
    snapshot(
        neoxrun("generate", "demo", *asked, cwd=tmp_path).check_error(4, "no chat template", "chat_template.jinja")
    )
    both = neoxrun("generate", "demo", *asked, "--prompt", "a", cwd=tmp_path)
    both.check_error(2, "--chat", "--prompt")
    (tmp_path / "chat.jsonl").write_text('{"prompt": "a"}')
    neoxrun("generate", "demo", *asked, cwd=tmp_path).check_error(4, "messages", where="chat.jsonl:1")


def test_tokens_beyond_the_models_rows_are_an_error_where_they_occur(chat: Chat, tmp_path: Path) -> None:
    more = dict(TOKENIZER["added_tokens_decoder"])
    for number in range(402, ROWS + 1):
        more |= added(number, f"<|extra {number}|>")
    path = write_kind(
        tmp_path, {"tokenizer.json": byte_level, "tokenizer_config.json": {**TOKENIZER, "added_tokens_decoder": more}}
    )
    prompts = "".join(
        json.dumps([{"role": "user", "content": text}]) + "\n"
        for text in ("Hi", f"<|extra {ROWS - 1}|>", f"<|extra {ROWS}|>")
    )
    asked = ("--chat", "-", "-o", "-", "--maximum-tokens", 2, "--tokenizer", path, "--dtype", "fp32")
    done = neoxrun("generate", chat.config, *asked, stdin=prompts)
    assert done.code == 4
    assert [(record["id"], record["code"]) for record in sorted(done.records, key=lambda one: one["id"])] == [
        (0, None),
        (1, None),
        (2, "bad_token_id"),
    ]
