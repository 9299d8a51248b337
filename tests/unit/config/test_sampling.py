"""Sampling parameters as people write them, in YAML, JSON or flags."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.config.sampling import SAMPLING_NAMES, SamplingParams, update_sampling
from neoxrun.errors import UsageError

WRONG = [
    ("maximum_tokens", 0),
    ("maximum_tokens", 2.5),
    ("maximum_tokens", True),
    ("temperature", -0.1),
    ("temperature", float("nan")),
    ("temperature", "hot"),
    ("top_k", -1),
    ("top_p", 1.01),
    ("min_p", float("inf")),
    ("repetition_penalty", 0),
    ("frequency_penalty", None),
    ("presence_penalty", 10**400),
    ("logprobs", -1),
    ("seed", -1),
    ("seed", 2**63),
    ("stop", [""]),
    ("stop", {"a": 1}),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"1": "a"}),
    ("ignore_eos", 1),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}-{str(value)[:12]}" for name, value in WRONG])
def test_a_wrong_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{name} must be ") as caught:
        update_sampling(SamplingParams(), {name: value})
    assert caught.value.code == "invalid_value"


def test_what_is_written_becomes_the_engine_s_parameters() -> None:
    line = '{"temperature": 1, "stop": "END", "logit_bias": {"5": -100}, "logprobs": null, "top_k": 3}'
    found = update_sampling(SamplingParams(logprobs=2, min_p=0.5), json.loads(line))
    assert found == SamplingParams(
        temperature=1.0, stop=("END",), logit_bias={5: -100.0}, logprobs=None, top_k=3, min_p=0.5
    )
    assert isinstance(found.temperature, float)


def test_numbers_of_numpy_become_plain_ones() -> None:
    given = {
        "temperature": np.float32(0.5),
        "top_k": np.int64(3),
        "seed": np.uint8(7),
        "logit_bias": {np.int64(5): np.float32(1)},
    }
    found = update_sampling(SamplingParams(), given)
    assert found == SamplingParams(temperature=0.5, top_k=3, seed=7, logit_bias={5: 1.0})
    assert [type(one) for one in (found.temperature, found.top_k, *found.logit_bias)] == [float, int, int]
    for name, wrong in (("top_k", np.float32(3)), ("temperature", np.float32("nan")), ("seed", np.bool_(True))):
        with pytest.raises(UsageError, match=f"^{name} must be "):
            update_sampling(SamplingParams(), {name: wrong})


def test_an_unknown_name_suggests_the_known_one() -> None:
    with pytest.raises(UsageError, match="top-k is not a sampling parameter") as caught:
        update_sampling(SamplingParams(), {"top-k": 1})
    assert caught.value.code == "unknown_option"
    assert caught.value.hint == "Did you mean top_k?"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.sampled_from(SAMPLING_NAMES), ANYTHING)
def test_every_value_is_accepted_or_refused(name: str, value: object) -> None:
    try:
        found = update_sampling(SamplingParams(), {name: value})
    except UsageError:
        return
    assert update_sampling(SamplingParams(), {name: getattr(found, name)}) == found
