"""Prompts and parameters as people write them, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from neoxrun import SamplingParams
from neoxrun.api.prompts import PromptReader
from neoxrun.errors import UsageError
from support.tiny_models import demo_tokenizer

TOKENIZER = demo_tokenizer()
SIZE = TOKENIZER.vocab_size
CONFIGURED = SamplingParams(temperature=0.5, maximum_tokens=7, seed=3)
READER = PromptReader(TOKENIZER, CONFIGURED, SIZE, 64)
IDS = TOKENIZER.encode("import os")


def ids_of(prompts: object) -> tuple[list[list[int]], bool]:
    asked = READER.read(prompts, None, None, None, {})
    return [list(one.ids) for one in asked.answers], asked.single


@pytest.mark.parametrize(
    "prompt",
    [
        "import os",
        IDS,
        tuple(IDS),
        torch.tensor(IDS),
        {"prompt": "import os"},
        {"prompt_token_ids": IDS},
        {"prompt_token_ids": torch.tensor(IDS)},
    ],
)
def test_one_prompt_and_several(prompt: object) -> None:
    assert ids_of(prompt) == ([IDS], True)
    assert ids_of([prompt]) == ([IDS], False)
    assert ids_of([prompt, "import os"]) == ([IDS, IDS], False)
    (answer,) = READER.read(prompt, None, None, None, {}).answers
    assert answer.prompt.context == "import os"


def test_no_prompts() -> None:
    assert ids_of([]) == ([], False)
    assert ids_of(iter(["import os"])) == ([IDS], False)


@pytest.mark.parametrize("wrong", [None, 7, b"import os", 1.5, ["a", 1.5], [["a"]], [[]], {"text": "a"}, [True]])
def test_what_is_not_a_prompt(wrong: object) -> None:
    with pytest.raises(UsageError, match="is not a prompt") as caught:
        READER.read(wrong, None, None, None, {})
    assert caught.value.code == "invalid_value"
    assert "list of token ids" in (caught.value.hint or "")


@pytest.mark.parametrize("token", [SIZE, -1])
def test_an_id_that_the_model_does_not_have(token: int) -> None:
    with pytest.raises(UsageError, match=f"prompt 1 has the token id {token}") as caught:
        READER.read(["a", [token]], None, None, None, {})
    assert caught.value.code == "invalid_value"


def params(given: Any, index: int = 0, **sampling: Any) -> SamplingParams:
    return READER.read(["a", "b"], given, None, None, sampling).answers[index].prompt.params


def test_parameters() -> None:
    assert params(None) == CONFIGURED
    assert params(None, temperature=0.1).temperature == 0.1
    assert params(SamplingParams(top_k=3)) == SamplingParams(top_k=3), "in place of all of the configuration's"
    changed = params({"max_new_tokens": 9})
    assert (changed.maximum_tokens, changed.temperature) == (9, 0.5), "the others are the configuration's"
    own = [SamplingParams(maximum_tokens=1), {"max_tokens": 2}]
    assert [params(own, index).maximum_tokens for index in range(2)] == [1, 2]
    assert params({"stop": "x"}).stop == ("x",)


def test_what_is_none_stays_as_it_is() -> None:
    own = SamplingParams(maximum_tokens=9, logprobs=2)
    assert params(own, max_tokens=None, seed=None) == params(own)
    assert params({"max_tokens": None, "seed": None, "n": None}) == params(None)
    assert params({"seed": None}, 1).seed == params(None, 1).seed, "it has no seed of its own"
    assert params(own, logprobs=None).logprobs is None, "which is how they are left out"


def test_numbers_of_numpy() -> None:
    assert params(None, temperature=np.float32(0.25), max_tokens=np.int64(2)) == params(
        None, temperature=0.25, max_tokens=2
    )
    assert len(READER.read("a", None, np.int64(2), None, {}).answers) == 2  # type: ignore[arg-type]


def test_random_streams() -> None:
    """As in a file of prompts: the seed and the index, unless a prompt has a seed of its own."""
    first, second = (params(None, index).seed for index in range(2))
    assert first == 3
    assert first != second
    assert [params([{"seed": 5}, {"seed": 5}], index).seed for index in range(2)] == [5, 5]
    answers = READER.read(["a", "b"], None, 2, None, {}).answers
    assert len({answer.prompt.params.seed for answer in answers}) == 4
    assert [(answer.prompt.id, answer.prompt.sample) for answer in answers] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_n() -> None:
    assert READER.read("a", None, 1, None, {}).single is False, "a list is asked for"
    assert len(READER.read("a", {"n": 3}, None, None, {}).answers) == 3
    assert [one.prompt.id for one in READER.read(["a", "b"], [{"n": 2}, {}], None, None, {}).answers] == [0, 0, 1]


def test_the_answers_of_a_call_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neoxrun.generation.prompts._MOST_ANSWERS", 5)
    assert len(READER.read(["a", "b"], [{"n": 3}, {"n": 2}], None, None, {}).answers) == 5
    with pytest.raises(UsageError, match="more than 5 answers") as caught:
        READER.read(["a", "b"], None, 3, None, {})
    assert caught.value.code == "invalid_value"


@pytest.mark.parametrize(
    ("arguments", "code", "says", "hint"),
    [
        ({"params": {"temprature": 1}}, "unknown_option", "temprature is not a sampling", "Did you mean temperature?"),
        ({"sampling": {"do_sample": True}}, "unknown_option", "do_sample is not a sampling", "temperature=0 does not"),
        ({"sampling": {"zzz": 1}}, "unknown_option", "zzz is not", "The parameters are: frequency_penalty"),
        ({"params": {"temperature": -1}}, "invalid_value", "temperature must be", ""),
        ({"params": SamplingParams(temperature=-1.0)}, "invalid_value", "temperature must be", ""),
        ({"params": {"max_tokens": 1, "maximum_tokens": 1}}, "conflicting_options", "another name of", "Leave one"),
        ({"params": "greedy"}, "invalid_value", "parameters are SamplingParams or a dict", "For example"),
        ({"params": [{}]}, "invalid_value", "1 set of parameters for 2 prompts", "one for each"),
        ({"n": 0}, "invalid_value", "n must be a whole number of 1 or more, not 0", ""),
        ({"params": {"n": 1.5}}, "invalid_value", "n must be a whole number of 1 or more, not 1.5", ""),
        ({"n": 10**9}, "invalid_value", "more than 1,000,000 answers", "Lower n, or divide the prompts"),
        ({"params": {"n": 2, "num_return_sequences": 3}}, "conflicting_options", "another name of n", "Leave one"),
        ({"truncate": "middle"}, "invalid_value", "truncate must be left, right or None, not 'middle'", ""),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], code: str, says: str, hint: str) -> None:
    given = {"params": None, "n": None, "truncate": None, "sampling": {}} | arguments
    with pytest.raises(UsageError) as caught:
        READER.read(["a", "b"], **given)
    assert caught.value.code == code
    assert says in caught.value.message
    assert hint in (caught.value.hint or "")
    assert hint in str(caught.value), "what a traceback shows has it too"
