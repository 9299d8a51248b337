"""What the keys of a row mean, which are carried on, and which are refused."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import Any

import pytest

from neoxrun.config.sampling import SamplingParams
from neoxrun.errors import DataError
from neoxrun.generation.records import Record
from neoxrun.generation.row_keys import Entry, read_entry
from neoxrun.input.row import Row

PARAMS = SamplingParams(maximum_tokens=10, logprobs=2)
CHAT = [{"role": "user", "content": "a"}]


def entry(values: dict[str, Any], *, cells: bool = False, strict: bool = False) -> Entry:
    return read_entry(Row(values, "a", 1, cells=cells), 5, PARAMS, 3, strict=strict)


def refused(values: dict[str, Any], *, strict: bool = False) -> DataError:
    with pytest.raises(DataError) as caught:
        entry(values, strict=strict)
    assert (caught.value.code, caught.value.where) == ("bad_prompt", "a:1")
    return caught.value


@pytest.mark.parametrize("key", ["prompt", "context", "text"])
def test_a_text_has_one_of_three_names(key: str) -> None:
    assert entry({key: " a "}) == Entry(5, " a ", None, PARAMS, 3, seeded=False)


def test_messages_are_not_a_text() -> None:
    found = entry({"messages": CHAT, "prompt": None})
    assert (found.text, found.messages) == (None, CHAT)


def test_text_next_to_a_prompt_is_a_key_like_any_other() -> None:
    assert entry({"prompt": "a", "text": "b"}).extra == {"text": "b"}
    assert entry({"messages": CHAT, "text": 1}).extra == {"text": 1}
    assert entry({"prompt": None, "text": "b"}).text == "b"


def test_null_is_the_same_as_nothing() -> None:
    given = {"prompt": "a", "id": None, "n": None, "temperature": None, "logprobs": None, "seed": None}
    assert entry(given) == entry({"prompt": "a"})
    assert entry({"prompt": "a", "label": None}).extra == {"label": None}


def test_whole_numbers_may_come_from_a_column_of_others() -> None:
    found = entry({"prompt": "a", "maximum_tokens": 4.0, "n": 2.0, "temperature": 1.0, "top_p": 0.5, "x": 3.0})
    assert (found.params.maximum_tokens, found.count, found.params.temperature, found.params.top_p) == (4, 2, 1, 0.5)
    assert isinstance(found.extra["x"], float), "what is carried on is left as it is"


def test_cells_are_read_as_what_they_are_elsewhere() -> None:
    cells = {
        "prompt": "1.5",
        "n": "2",
        "temperature": "0.5",
        "maximum_tokens": "4.0",
        "top_k": "",
        "ignore_eos": "True",
        "stop": "\n\n",
        "logit_bias": '{"5": -1}',
        "label": "7",
    }
    found = entry(cells, cells=True)
    assert found == entry(
        {
            "prompt": "1.5",
            "n": 2,
            "temperature": 0.5,
            "maximum_tokens": 4,
            "ignore_eos": True,
            "stop": "\n\n",
            "logit_bias": {"5": -1},
            "label": "7",
        }
    )
    assert entry({"prompt": "", "stop": '["a", "b"]'}, cells=True).params.stop == ("a", "b")
    assert entry({"messages": json.dumps(CHAT)}, cells=True).messages == CHAT
    with pytest.raises(DataError, match=r"temperature must be a number .* not 'hot'"):
        entry({"prompt": "a", "temperature": "hot"}, cells=True)


MISSPELT = {
    "temprature": "temperature",
    "Temperature": "temperature",
    "max_tokens": "maximum_tokens",
    "max_new_tokens": "maximum_tokens",
    "maxTokens": "maximum_tokens",
    "maximum_token": "maximum_tokens",
    "top-k": "top_k",
    "topP": "top_p",
    "temp": "temperature",
    "num_sample": "num_samples",
    "stop_sequences": "stop",
    "repetition_penality": "repetition_penalty",
    "logprob": "logprobs",
}


@pytest.mark.parametrize("key", MISSPELT)
def test_what_is_almost_a_parameter_is_an_error(key: str) -> None:
    error = refused({"prompt": "a", key: 1})
    assert f'"{key}"' in error.message
    assert f"Did you mean {MISSPELT[key]}?" in str(error.hint)


OWN = (
    "label",
    "step",
    "speed",
    "content",
    "contents",
    "message",
    "tokens",
    "source",
    "url",
    "topic",
    "top",
    "name",
    "N",
)


@pytest.mark.parametrize(
    "key", [*OWN, "", "prompt_id", "answer", "stop_reason", "p", "finish_reason", "length", "text2"]
)
def test_other_keys_are_carried_on(key: str) -> None:
    assert entry({"prompt": "a", key: [1]}).extra == {key: [1]}


def test_strict_keys() -> None:
    error = refused({"prompt": "a", "label": "x"}, strict=True)
    assert '"label"' in error.message
    assert "temperature" in str(error.hint)
    assert entry({"prompt": "a", "id": "x", "n": 1, "stop": "b"}, strict=True).extra == {}


def test_rows_without_a_text() -> None:
    assert "Its keys are: id, question." in str(refused({"id": 1, "question": "a"}).hint)
    with pytest.raises(DataError) as caught:
        entry({"import os": "import re"}, cells=True)
    assert caught.value.hint == "The first line names the columns; they are: import os."
    assert "Did you mean prompt?" in str(refused({"promt": "a"}).hint)
    assert '"context" is not a text here but null' in refused({"context": None}).message
    assert '"text" is not a text here but 3' in refused({"text": 3}).message
    assert refused({}).hint is None


def test_what_json_cannot_have_becomes_what_it_can() -> None:
    day = datetime.datetime(2026, 1, 2, 3, 4)
    given = {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": day}, "e": b"\xff", "f": decimal.Decimal("1.10")}
    found = entry({"prompt": "x", **given}).extra
    assert found == {"a": None, "b": [None, 1.5], "c": {"d": "2026-01-02T03:04:00"}, "e": "/w==", "f": "1.10"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_nesting_has_an_end() -> None:
    def nested(levels: int) -> dict[str, Any]:
        return json.loads('{"prompt": "x", "own": ' + "[" * levels + "]" * levels + "}")

    found = entry(nested(100))
    record = Record(0, None, "x", "y", 1, True, "stop", None, None, 0.5, extra=found.extra)
    assert json.loads(record.to_json())["own"] == nested(100)["own"]
    for levels in (102, 900):
        assert "nested too deeply" in refused(nested(levels)).message


def test_half_a_character_is_refused_wherever_it_is() -> None:
    for values in ({"prompt": "\ud800"}, {"prompt": "a", "label": ["\ud800"]}):
        with pytest.raises(DataError) as caught:
            entry(values)
        assert caught.value.code == "not_text"
