"""The words of a refusal."""

from __future__ import annotations

import re
from typing import Any

import pytest

from neoxrun.errors import UsageError
from support.plans import planned

# What cannot be -> words of the message, words of the hint.
IMPOSSIBLE = [
    (
        "20B",
        "1x24GB",
        {},
        ["41.1 GB of fp16 weights", "24.5 GB of 25.8 GB", "too little"],
        ["2x24GB", "1x45GB"],
    ),
    ("20B", "2x24GB", {"dtype": "fp32"}, ["82.2 GB of fp32 weights", "tp 2 x pp 1"], ["4x24GB", "2x45GB"]),
    ("20B", "2x40GB", {"dtype": "fp32"}, ["82.2 GB of fp32 weights"], ["--dtype bf16"]),
    ("20B", "2x40GB", {"tp": 1, "pp": 1}, ["does not fit on 1 GPU"], ["--tp 2 --pp 1 --replicas 1"]),
    ("20B", "2x48GB", {"tp": 4}, ["tp 4 needs 4 GPUs", "there are 2 GPUs"], ["--tp 2 --pp 1 --replicas 1"]),
    ("20B", "2x80GB", {"tp": 2, "pp": 2, "replicas": 2}, ["needs 8 GPUs"], ["--tp 2 --pp 1 --replicas 1"]),
    ("20B", "2x24GB", {"tp": 4, "nnodes": 2}, ["on one host", "2 GPUs on each of 2 hosts"], ["--tp 2"]),
    (
        "20B",
        "2x80GB",
        {"pp": 3, "nnodes": 2},
        ["pp 3 cannot be spread evenly", "2 GPUs on each of 2 hosts"],
        ["--pp"],
    ),
    ("20B", "4x80GB", {"tp": 2, "world_size": 3}, ["tp 2", "started 3 ranks"], ["--tp 1"]),
]


@pytest.mark.parametrize(("name", "devices", "flags", "message", "hint"), IMPOSSIBLE)
def test_what_is_not_possible_says_what_is(
    name: str, devices: str, flags: dict[str, Any], message: list[str], hint: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        planned(name, devices, **flags)
    assert caught.value.exit_code == 2
    for part in message:
        assert part in caught.value.message
    for part in hint:
        assert part in (caught.value.hint or "")


def test_the_nearest_that_is_suggested_works() -> None:
    with pytest.raises(UsageError) as caught:
        planned("20B", "6x48GB", tp=8, pp=2)
    assert caught.value.code == "impossible_split"
    sizes = dict(re.findall(r"--(\w+) (\d+)", caught.value.hint or ""))
    plan = planned("20B", "6x48GB", **{name: int(size) for name, size in sizes.items()})
    assert (plan.tp, plan.pp) == (4, 1)


def test_the_number_of_gpus_that_is_suggested_works() -> None:
    with pytest.raises(UsageError) as caught:
        planned("20B", "1x16GB")
    assert caught.value.code == "does_not_fit"
    suggested = re.search(r"\d+x16GB", caught.value.hint or "")
    assert suggested
    plan = planned("20B", suggested[0])
    assert plan.max_context == 2048


def test_host_too_small_says_how_much_is_missing() -> None:
    with pytest.raises(UsageError, match=r"41\.1 GB of bf16 weights.*too little") as caught:
        planned("20B", "32GB", "cpu", cores=8)
    assert caught.value.code == "does_not_fit"
