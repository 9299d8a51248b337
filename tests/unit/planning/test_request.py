"""Requests that no devices could fulfil."""

from __future__ import annotations

from typing import Any

import pytest

from neoxrun.errors import UsageError
from neoxrun.planning.request import Requested, check_request
from support.plans import PUBLISHED, settings_for

# What is asked of the 20B -> words of the message, words of the hint.
IMPOSSIBLE = [
    ({"tp": 3}, ["64 attention heads", "--tp 3"], ["1, 2, 4, 8, 16, 32, 64"]),
    ({"pp": 45}, ["--pp 45", "44"], ["at most 44"]),
    ({"context": 4096}, ["4096", "2048"], ["at most 2048"]),
    *(
        ({name: 0}, [f"--{name.replace('_', '-')} 0"], ["at least 1"])
        for name in ("tp", "pp", "replicas", "batch_size")
    ),
]


@pytest.mark.parametrize(("flags", "message", "hint"), IMPOSSIBLE)
def test_what_no_devices_could_change_is_refused(flags: dict[str, Any], message: list[str], hint: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        check_request(PUBLISHED["20B"][0].model, Requested(**flags))
    assert caught.value.exit_code == 2
    assert not [part for part in message if part not in caught.value.message]
    assert not [part for part in hint if part not in (caught.value.hint or "")]


@pytest.mark.parametrize(
    ("gpus", "possible"), [(1, "1 for this model on 1 GPU."), (3, "1, 2 for this model on 3 GPUs.")]
)
def test_the_hint_names_no_more_than_there_are_gpus(gpus: int, possible: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_request(PUBLISHED["20B"][0].model, Requested(tp=3), gpus)
    assert caught.value.hint == f"--tp can be {possible}"


def test_the_mlp_must_divide_too() -> None:
    model = settings_for(2, 64, 4, intermediate_size=66).model
    check_request(model, Requested(tp=2))
    with pytest.raises(UsageError, match="an MLP of width 66 cannot be divided into --tp 4") as caught:
        check_request(model, Requested(tp=4))
    assert caught.value.code == "impossible_split"
