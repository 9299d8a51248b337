"""Generation options of a task become sampling parameters, or are refused."""

from __future__ import annotations

import pytest

from neoxrun.errors import DataError
from neoxrun.evaluation.options import sampling_of


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
        ({"num_beams": 4}, "num_beams=4"),
        ({"do_sample": True}, "temperature"),
        ({"do_sample": "no", "temperature": 2}, "do_sample must be true or false, not 'no'"),
        ({"top_p": 3}, "top_p must be"),
        ({"max_gen_toks": 2048}, "no room for a prompt"),
        ({"until": 5}, "neither a string nor a list of strings"),
    ],
)
def test_generation_options_that_are_refused(kwargs: dict, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        sampling_of(kwargs, 2048, where="a_task")
    assert caught.value.code == "bad_task"
    assert caught.value.where == "a_task"
