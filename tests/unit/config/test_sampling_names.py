"""The sampling parameters by the names of other tools."""

from __future__ import annotations

import pytest

from neoxrun.config.sampling import SAMPLING_NAMES, SamplingParams
from neoxrun.config.sampling_names import EXPLAINED_PARAMETERS, FOREIGN_PARAMETERS
from neoxrun.errors import UsageError


def test_parameters_by_other_names() -> None:
    assert SamplingParams(max_tokens=5, temp=0.5) == SamplingParams(maximum_tokens=5, temperature=0.5)  # type: ignore[call-arg]
    assert SamplingParams(3).maximum_tokens == 3
    for name, says in (
        ("max_length", "maximum_tokens=N"),
        ("top_kk", "Did you mean top_k?"),
        ("max_new_token", "max_new_tokens?"),
        ("n", "to generate"),
    ):
        with pytest.raises(UsageError) as caught:
            SamplingParams(**{name: 1})  # type: ignore[arg-type]
        assert caught.value.code == "unknown_option"
        assert says in str(caught.value)


def test_none_stands_for_what_is_left_out() -> None:
    assert SamplingParams(max_tokens=None, seed=None, logprobs=None) == SamplingParams()  # type: ignore[call-arg,arg-type]
    with pytest.raises(UsageError, match="top_kk is not a sampling parameter"):
        SamplingParams(top_kk=None)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("max_tokens", "maximum_tokens"), "max_tokens is another name of maximum_tokens"),
        (("maximum_tokens", "max_tokens"), "max_tokens is another name of maximum_tokens"),
        (("max_tokens", "n_predict"), "n_predict is another name of max_tokens"),
    ],
)
def test_one_parameter_under_two_names(names: tuple[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        SamplingParams(**dict.fromkeys(names, 2))  # type: ignore[arg-type]
    assert caught.value.code == "conflicting_options"


def test_other_names_stand_for_parameters_and_explained_ones_do_not() -> None:
    assert set(FOREIGN_PARAMETERS.values()) <= set(SAMPLING_NAMES)
    assert not set(SAMPLING_NAMES) & (FOREIGN_PARAMETERS.keys() | EXPLAINED_PARAMETERS.keys())
