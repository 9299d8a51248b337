"""Prompts from text and from .jsonl: their ids, samples and seeds, and which inputs are refused."""

from __future__ import annotations

import io
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neoxrun.config.sampling import SamplingParams
from neoxrun.errors import DataError, UsageError
from neoxrun.generation.prompts import Prompt, check_count, expand_prompt, read_prompts
from neoxrun.input.formats import Format
from neoxrun.input.source import Source, open_source
from support.rows import WAYS, WRITERS

PARAMS = SamplingParams(maximum_tokens=10, seed=7)
CHAT = [{"role": "user", "content": "a"}]


def rendered(messages: object, where: str) -> str:
    return f"{where.rpartition(':')[2]}:{json.dumps(messages)}"


def read(name: str, *, prompt_end: str = "\n", num_samples: int = 1, text: bool = True, **how: bool) -> list[Prompt]:
    source = open_source(name, end=prompt_end, text=text)
    return read_prompts(source, params=PARAMS, num_samples=num_samples, render=rendered, **how)


def read_text(tmp_path: Path, text: str | bytes, **how: Any) -> list[Prompt]:
    path = tmp_path / "prompts.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(str(path), **how)


def read_jsonl(tmp_path: Path, *lines: object, **how: Any) -> list[Prompt]:
    """Lines that are not text are written as JSON."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return read(str(path), **how)


def test_text_is_one_prompt_a_line(tmp_path: Path) -> None:
    prompts = read_text(tmp_path, "\ufeff  first \n\n \t\nsecond\u2028line")
    assert [(prompt.id, prompt.sample, prompt.context) for prompt in prompts] == [
        (0, None, "first"),
        (1, None, "second\u2028line"),
    ]


def test_text_with_another_end_of_a_prompt(tmp_path: Path) -> None:
    prompts = read_text(tmp_path, "one\nprompt<END>\n<END>another", prompt_end="<END>")
    assert [prompt.context for prompt in prompts] == ["one\nprompt", "another"]


@pytest.mark.parametrize("text", ['{"prompt": "a"}\n{"prompt": "b"}\n', "id,prompt\n0,a\n1,b\n", "a\nb\n"])
def test_standard_input_is_what_it_looks_like(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert [(prompt.id, prompt.context) for prompt in read("-")] == [(0, "a"), (1, "b")]


def test_samples_have_their_own_numbers_and_seeds(tmp_path: Path) -> None:
    prompts = read_text(tmp_path, "a\nb", num_samples=3)
    assert [prompt.key for prompt in prompts] == [(number, sample) for number in (0, 1) for sample in range(3)]
    assert len({prompt.params.seed for prompt in prompts}) == 6


def test_a_seed_depends_on_index_and_sample_alone() -> None:
    alone = list(expand_prompt("x", 4, "text", PARAMS, 2))
    among_more = list(expand_prompt("y", 4, "other text", PARAMS, 5))
    assert [prompt.params for prompt in alone] == [prompt.params for prompt in among_more[:2]]
    assert next(expand_prompt(0, 0, "", PARAMS, 1)).params == PARAMS


def test_jsonl_has_ids_samples_and_sampling_parameters(tmp_path: Path) -> None:
    prompts = read_jsonl(
        tmp_path,
        {"prompt": " spaces stay "},
        "",
        {"context": "b", "id": "mine", "n": 2, "temperature": 0.5},
        {"prompt": "", "id": -3, "num_samples": 1},
    )
    assert [(prompt.id, prompt.sample, prompt.context, prompt.params.temperature) for prompt in prompts] == [
        (0, None, " spaces stay ", 0.0),
        ("mine", 0, "b", 0.5),
        ("mine", 1, "b", 0.5),
        (-3, None, "", 0.0),
    ]
    assert {prompt.params.maximum_tokens for prompt in prompts} == {10}


def test_the_flag_counts_samples_where_a_line_does_not(tmp_path: Path) -> None:
    prompts = read_jsonl(tmp_path, {"prompt": "a"}, {"prompt": "b", "n": 1}, num_samples=2)
    assert [prompt.key for prompt in prompts] == [(0, 0), (0, 1), (1, None)]


def test_messages_become_complete_text(tmp_path: Path) -> None:
    plain, chat = read_jsonl(tmp_path, {"prompt": "a"}, {"messages": CHAT, "id": "x", "n": 1, "temperature": 0.5})
    assert (plain.complete, chat.complete) == (False, True)
    assert (chat.id, chat.context, chat.params.temperature) == ("x", f"2:{json.dumps(CHAT)}", 0.5)


def test_a_file_of_conversations_has_any_name(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    for lines, names in (([{"messages": CHAT}, CHAT], None), ([{"prompt": "a"}], "messages"), (["x"], "messages")):
        path.write_text("\n".join(map(json.dumps, lines)))
        read_chats = partial(read, str(path), num_samples=2, text=False, chat=True)
        if names is None:
            assert [prompt.key for prompt in read_chats()] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        else:
            with pytest.raises(DataError, match=names) as caught:
                read_chats()
            assert caught.value.code == "bad_prompt"


def test_a_lines_own_seed_decides_alone(tmp_path: Path) -> None:
    first, second, third, fourth = read_jsonl(
        tmp_path,
        {"prompt": "a"},
        {"prompt": "a"},
        {"prompt": "a", "seed": 3},
        {"prompt": "a", "seed": 3},
    )
    assert first.params.seed != second.params.seed
    assert third.params.seed == fourth.params.seed == 3


def test_a_separator_within_a_string_ends_no_line(tmp_path: Path) -> None:
    [prompt] = read_jsonl(tmp_path, '{"prompt": "a\u2028b"}')
    assert prompt.context == "a\u2028b"


# Lines of a file of which the last is wrong, and what the message names.
BAD_LINES: dict[str, tuple[list[object], str]] = {
    "two texts": ([{"prompt": "a", "context": "b"}], "context"),
    "a text and messages": ([{"prompt": "a", "messages": CHAT}], "messages"),
    "no text": ([{"id": 1}], "prompt"),
    "a text that is a number": ([{"prompt": 1}], "prompt"),
    "a text that is null": ([{"prompt": None}], "null"),
    "n is 0": ([{"prompt": "a", "n": 0}], "0"),
    "n is a fraction": ([{"prompt": "a", "n": 1.5}], "1.5"),
    "a misspelt key": ([{"prompt": "a", "temprature": 1}], "temprature"),
    "a wrong parameter": ([{"prompt": "a", "temperature": -1}], "temperature"),
    "an id twice": ([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}], "line 1"),
    "an id that is another line's index": ([{"prompt": "a"}, {"prompt": "b", "id": 0}], "line 1"),
}
# Of these the rows themselves are wrong, whatever they are for.
BAD_INPUTS: dict[str, tuple[list[object], str]] = {
    "not JSON": (["{'prompt': 1}"], "column 2"),
    "not JSON after an empty line": (["", "{"], "JSON"),
    "nested too deeply": (["[" * 200_000], "nested"),
    "a number with too many digits": (['{"prompt": "a", "n": ' + "9" * 5000 + "}"], "number"),
    "not an object": ([["prompt"]], "object"),
    "an id that is a list": ([{"prompt": "a", "id": [1]}], "[1]"),
    "an id that is true": ([{"prompt": "a", "id": True}], "true"),
}


@pytest.mark.parametrize("case", [*BAD_LINES, *BAD_INPUTS])
def test_bad_lines_are_named(case: str, tmp_path: Path) -> None:
    code, (lines, names) = ("bad_prompt", BAD_LINES[case]) if case in BAD_LINES else ("bad_input", BAD_INPUTS[case])
    with pytest.raises(DataError) as caught:
        read_jsonl(tmp_path, *lines)
    assert caught.value.code == code
    assert caught.value.where == f"{tmp_path / 'prompts.jsonl'}:{len(lines)}"
    assert names in caught.value.message


def test_keys_of_its_own_go_with_a_prompt(tmp_path: Path) -> None:
    first, second, plain = read_jsonl(tmp_path, {"prompt": "a", "label": "x", "n": 2}, {"prompt": "b"}, num_samples=1)
    assert first.extra == second.extra == {"label": "x"}
    assert plain.extra == {}
    with pytest.raises(DataError, match="label") as caught:
        read_jsonl(tmp_path, {"prompt": "a", "label": "x"}, strict=True)
    assert caught.value.code == "bad_prompt"


def test_rows_are_named_where_lines_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"prompt": "a", "id": 7}, {"prompt": "b", "id": 7}], indent=1))
    with pytest.raises(DataError, match="first in row 1") as caught:
        read(str(path))
    assert caught.value.where == f"{path}, row 2"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_list_of_messages_is_one_conversation(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(CHAT))
    [prompt] = read(str(path), text=False, chat=True)
    assert prompt.context.endswith(json.dumps(CHAT))


def test_half_of_a_utf_16_pair_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_jsonl(tmp_path, r'{"prompt": "\ud800"}')
    assert caught.value.code == "not_text"
    assert caught.value.where == f"{tmp_path / 'prompts.jsonl'}:1"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_text(tmp_path, b"good\nb\xe4d\n")
    assert caught.value.code == "not_text"
    assert caught.value.where == f"{tmp_path / 'prompts.txt'}:2"
    assert "0xe4 at offset 6" in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "missing", "missing_file"), (tmp_path, "unreadable_file")):
        with pytest.raises(DataError) as caught:
            read(str(path))
        assert caught.value.code == code
        assert str(path) in caught.value.message


def test_no_prompts(tmp_path: Path) -> None:
    for read_lines, empty in ((read_text, " \n\t\n"), (read_jsonl, " ")):
        with pytest.raises(DataError) as caught:
            read_lines(tmp_path, empty)
        assert caught.value.code == "no_prompts"


@pytest.mark.parametrize(
    ("name", "content", "chat", "says"),
    [
        ("a.txt", "", False, "one prompt a line;"),
        ("a.jsonl", "", False, 'a row, with a "prompt"'),
        ("a.csv", "prompt,id\n", False, 'a row, with a "prompt"'),
        ("a.jsonl", "", True, 'one conversation a line, as in {"messages": ['),
        ("a.json", "[]", True, 'one conversation a row, as in {"messages": ['),
        ("a.jsonl", "Hello\n", True, 'one object a line, such as {"messages": ['),
        ("a.json", "Hello\n", True, 'an array of objects, such as [{"messages": ['),
        ("a.jsonl", "Hello\n", False, 'one object a line, such as {"text": '),
    ],
)
def test_what_an_input_without_prompts_should_have(
    name: str, content: str, chat: bool, says: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read(str(tmp_path / name), text=not chat, chat=chat)
    assert says in str(caught.value.hint)


def test_too_many_answers(tmp_path: Path) -> None:
    check_count(1_000_000)
    with pytest.raises(UsageError) as caught:
        check_count(1_000_001)
    assert caught.value.code == "invalid_value"
    with pytest.raises(UsageError):
        read_text(tmp_path, "a\nb\nc", num_samples=400_000)
    with pytest.raises(UsageError):
        read_jsonl(tmp_path, {"prompt": "a"}, {"prompt": "b", "n": 1_000_000})


OWN_ROWS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.text(), "label": st.text()},
        optional={
            "n": st.integers(1, 3),
            "maximum_tokens": st.integers(1, 99),
            "temperature": st.floats(0, 9),
            "seed": st.integers(0, 2**53),
            "ignore_eos": st.booleans(),
            "stop": st.text(st.characters(exclude_characters="[", exclude_categories=["Cs"]), min_size=1),
        },
    ),
    min_size=1,
    max_size=5,
)


IDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=5, unique=True) | st.lists(
    st.text().map("x{}".format), min_size=5, unique=True
)


@settings(max_examples=60, deadline=None)
@given(rows=OWN_ROWS, ids=IDS)
def test_the_same_rows_are_the_same_prompts_in_every_format(rows: list[dict[str, Any]], ids: list[str | int]) -> None:
    keys = dict.fromkeys(key for row in rows for key in row)
    full = [{"id": identity, **{key: row.get(key) for key in keys}} for row, identity in zip(rows, ids, strict=False)]

    def prompts_of(form: Format, way: str) -> list[Prompt]:
        source = Source("a", None, WAYS[way](WRITERS[form](full)), form)
        return read_prompts(source, params=PARAMS, num_samples=1, render=rendered)

    expected = prompts_of("jsonl", "plain")
    assert [prompt.id for prompt in expected if not prompt.sample] == ids[: len(rows)]
    for form in WRITERS:
        for way in WAYS:
            assert prompts_of(form, way) == expected, form
