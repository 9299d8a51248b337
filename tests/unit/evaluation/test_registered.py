"""The model in lm-eval's own command line: its arguments are those of LLM."""

from __future__ import annotations

from typing import Any

import pytest

from neoxrun.errors import UsageError
from neoxrun.evaluation import registered
from neoxrun.evaluation.registered import RegisteredLM
from neoxrun.serving.local import ModelArguments


class StopHereError(Exception):
    """In place of loading."""


def arguments(monkeypatch: pytest.MonkeyPatch, **given: Any) -> ModelArguments:
    """What a model is opened with."""
    opened: list[ModelArguments] = []

    def open_local(read: ModelArguments, *, started: bool) -> None:
        opened.append(read)
        raise StopHereError

    monkeypatch.setattr(registered, "open_local", open_local)
    with pytest.raises(StopHereError):
        RegisteredLM("demo", **{"device": "cpu"} | given)
    return opened[0]


@pytest.mark.parametrize(
    ("dtype", "ours"), [("float16", "fp16"), ("bfloat16", "bf16"), ("auto", "fp32"), (None, "fp32"), ("fp16", "fp16")]
)
def test_number_formats(dtype: str | None, ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert arguments(monkeypatch, dtype=dtype).dtype == ours


def test_arguments_of_an_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    read = arguments(monkeypatch, merge="average", enforce_eager=True, vocab_file="t.json", device="cuda:0")
    assert (read.merge, read.eager, read.tokenizer, read.device) == ("average", True, "t.json", None)
    assert read.sources == ("demo",)


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ({"merge": "fald"}, "invalid_value", "merge must be fold or average, not 'fald'"),
        ({"dtype": "int3"}, "invalid_value", "dtype must be fp32, fp16 or bf16, not 'int3'"),
        ({"tp": 0}, "invalid_value", "tp must be a whole number of 1 or more, not 0"),
        ({"checkpiont": "x"}, "unknown_option", "the model in --model_args has no argument checkpiont"),
        ({"tp": 2}, "wrong_number_of_ranks", "tp 2 x pp 1 needs 2 processes; this is one of 1"),
    ],
)
def test_what_is_refused(given: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        RegisteredLM("demo", device="cpu", **given)
    assert caught.value.code == code
    assert says in caught.value.message
