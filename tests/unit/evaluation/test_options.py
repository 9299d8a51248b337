"""Generation options of a task become sampling parameters, or are refused."""

from __future__ import annotations

import pytest

from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation.options import check_gen_kwargs, sampling_of


def test_generation_options() -> None:
    assert sampling_of({"until": "x", "do_sample": False, "temperature": 1, "num_beams": 1}, 2048) == {
        "temperature": 0.0,
        "maximum_tokens": 256,
        "stop": ("x",),
    }
    sampled = sampling_of({"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 5, "until": ["a", "b"]}, 2048)
    assert sampled == {"top_p": 0.9, "temperature": 0.7, "maximum_tokens": 5, "stop": ("a", "b")}


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"num_beams": 4}, "num_beams: 4 is not supported"),
        ({"untill": "x"}, "untill: 'x' is not supported"),
        ({"do_sample": True}, "temperature"),
        ({"do_sample": "no", "temperature": 2}, "do_sample: must be true or false, not 'no'"),
        ({"top_p": 3}, "top_p: must be"),
        ({"max_new_tokens": "x"}, "max_new_tokens: must be a whole number"),
        ({"max_gen_toks": 2048}, "max_gen_toks: 2048 leaves no room for a prompt"),
        ({"until": 5}, "until: must be a string or a list of strings, not 5"),
    ],
)
def test_generation_options_that_are_refused(kwargs: dict, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        sampling_of(kwargs, 2048, where="a_task")
    assert caught.value.code == "bad_task"
    assert caught.value.where == "a_task"
    with pytest.raises(UsageError, match=says) as caught:
        sampling_of(kwargs, 2048, where="a_task", given=kwargs)
    assert caught.value.message.startswith("--gen-kwargs ")


def test_a_task_may_have_the_temperature() -> None:
    check_gen_kwargs({"do_sample": True})
    with pytest.raises(UsageError, match="--gen-kwargs do_sample: needs a temperature"):
        sampling_of({"do_sample": True}, 2048, given=["do_sample"])
