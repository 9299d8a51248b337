"""Which rows are documents, what of them is learned, and which are refused, with their line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from neoxrun.errors import DataError
from neoxrun.input.source import open_source
from neoxrun.tokenizer.chat import ChatTemplate
from neoxrun.training.data.documents import TrainingDocument, read_training_documents
from support.chat_model import TEMPLATE
from support.training_data import write_rows

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}


def chat(source: str = TEMPLATE) -> ChatTemplate:
    return ChatTemplate(source, {}, Path("chat_template.jinja"))


def documents_of(
    path: Path, column: str = "text", template: ChatTemplate | None = None, end: str = ""
) -> list[TrainingDocument]:
    return list(read_training_documents(open_source(str(path), end=end), column, template))


def pieces_of(
    tmp_path: Path, row: dict[str, Any], column: str = "text", template: ChatTemplate | None = None
) -> list[Any]:
    (document,) = documents_of(write_rows(tmp_path / "a.jsonl", [row]), column, template)
    return [tuple(piece) for piece in document.pieces]


def test_texts_are_learned_whole(tmp_path: Path) -> None:
    assert pieces_of(tmp_path, {"text": "a\nb", "meta": 1, "prompt": None}) == [("a\nb", True)]
    assert pieces_of(tmp_path, {"body": "a", "prompt": "b", "completion": "c"}, "body") == [("a", True)]
    assert pieces_of(tmp_path, {"prompt": "a"}, "prompt") == [("a", True)]
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert [one.text for one in documents_of(tmp_path / "a.txt")] == ["one\n\ntwo\n"]
    found = documents_of(tmp_path / "a.txt", "body", end="\n\n")
    assert [(one.text, one.where) for one in found] == [
        ("one", f"{tmp_path / 'a.txt'}:1"),
        ("two\n", f"{tmp_path / 'a.txt'}:3"),
    ]


def test_completions_are_learned_and_prompts_are_not(tmp_path: Path) -> None:
    row = {"prompt": "2+2=", "completion": " 4", "text": None}
    assert pieces_of(tmp_path, row) == [("2+2=", False), (" 4", True)]
    table = pyarrow.table({"prompt": ["a", "b"], "completion": ["c", "d"], "other": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = documents_of(tmp_path / "a.parquet")
    assert [(one.pieces[1].text, one.where) for one in found] == [
        ("c", f"{tmp_path / 'a.parquet'}, row 1"),
        ("d", f"{tmp_path / 'a.parquet'}, row 2"),
    ]


def test_of_a_conversation_the_assistants_turns_are_learned_with_their_ends(tmp_path: Path) -> None:
    found = pieces_of(tmp_path, {"messages": [USER, ANSWER, USER, ANSWER, USER]}, template=chat())
    user = "<|im_start|>user\nHi<|im_end|>\n"
    learned = ("Hello<|im_end|>\n", True)
    prompt = (f"{user}<|im_start|>assistant\n", False)
    assert found == [prompt, learned, prompt, learned, (user, False)]
    assert pieces_of(tmp_path, {"messages": [ANSWER]}, template=chat())[-1][1] is True


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    forgets = (
        "{% for m in messages %}{{ m.role }}: {% if loop.last %}(thinks) {% endif %}{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    path = write_rows(tmp_path / "a.jsonl", [{"messages": [USER, ANSWER, USER, ANSWER]}])
    with pytest.raises(DataError, match="in another way when others follow") as caught:
        documents_of(path, template=chat(forgets))
    assert (caught.value.code, caught.value.where) == ("bad_document", f"{path}:1")


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        ({"text": 5}, "bad_document", '"text" is not a text here but 5'),
        ({"prompt": "a", "completion": ["b"]}, "bad_document", '"completion" is not a text'),
        ({"text": "a", "prompt": "a", "completion": "b"}, "bad_document", 'both "text" and "prompt" and "completion"'),
        ({"messages": [USER], "prompt": "a", "completion": "b"}, "bad_document", "has both"),
        ({"messages": [USER]}, "bad_document", "no message is the assistant's"),
        ({"messages": [USER, {**ANSWER, "content": None}]}, "bad_document", "message 2 is the assistant's and has no"),
        ({"messages": "Hi"}, "bad_prompt", "must be a list of at least one message"),
        ({"messages": [{"role": "system", "content": ""}, ANSWER]}, "bad_prompt", "no system role"),
        ({"content": "a", "id": 1}, "missing_column", 'needs a text under "text"'),
        ({"text": None}, "missing_column", 'needs a text under "text"'),
        ({"text": "\ud800"}, "not_text", "Unicode"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], code: str, message: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "good"}, row])
    with pytest.raises(DataError) as caught:
        documents_of(path, template=chat())
    assert (caught.value.code, caught.value.where) == (code, f"{path}:2")
    assert message in caught.value.message


def test_what_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text": \n')
    with pytest.raises(DataError, match="not JSON") as caught:
        documents_of(tmp_path / "a.jsonl")
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}:3"
    (tmp_path / "a.jsonl").write_text('["a"]\n["b"]\n')
    with pytest.raises(DataError, match="not a JSON object"):
        documents_of(tmp_path / "a.jsonl")


def test_the_hint_names_what_was_probably_meant(tmp_path: Path) -> None:
    hints = []
    for row in ({"prompt": "a", "completions": "b"}, {"body": "a", "id": 1}):
        with pytest.raises(DataError) as caught:
            documents_of(write_rows(tmp_path / "a.jsonl", [row]))
        hints.append(caught.value.hint or "")
    assert hints[0] == "Did you mean completion?"
    assert "known keys: body, id" in hints[1]


def test_the_hint_names_the_column_that_was_probably_meant(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"content": "a", "id": 1}])
    for column, hint in (("contnet", "Did you mean --column content?"), ("zzz", "known keys: content, id.")):
        with pytest.raises(DataError) as caught:
            documents_of(path, column=column)
        assert str(caught.value.hint).endswith(hint)


def test_messages_need_a_template(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"messages": [USER, ANSWER]}])
    with pytest.raises(DataError, match="no chat template") as caught:
        documents_of(path)
    assert (caught.value.code, caught.value.where) == ("no_chat_template", f"{path}:1")


def test_conversations_come_from_parquet_too(tmp_path: Path) -> None:
    named = {**ANSWER, "name": "model"}
    parquet.write_table(pyarrow.table({"messages": [[USER, named]], "id": [7]}), tmp_path / "a.parquet")
    (document,) = documents_of(tmp_path / "a.parquet", template=chat())
    assert [piece.learned for piece in document.pieces] == [False, True]
    assert document.text.endswith("assistant\nHello<|im_end|>\n")
