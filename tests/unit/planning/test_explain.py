"""What is said of a plan, and of one that cannot be."""

from __future__ import annotations

import re

import pytest

from neoxrun.errors import UsageError
from support.plans import planned

# What cannot be -> words of the message, words of the hint.
IMPOSSIBLE = [
    (
        "20B",
        "1x24GB",
        {},
        ["41.1 GB of fp16 weights", "22.8 GB of 24.0 GB", "too little"],
        ["3x24GB", "1x48GB"],
    ),
    ("20B", "2x24GB", {"dtype": "fp32"}, ["82.2 GB of fp32 weights", "tp 2 x pp 1"], ["2x49GB"]),
    ("20B", "2x40GB", {"dtype": "fp32"}, ["82.2 GB of fp32 weights"], ["--dtype bf16"]),
    ("20B", "2x40GB", {"tp": 1, "pp": 1}, ["does not fit on 1 GPU"], ["--tp 2 --pp 1 --replicas 1"]),
    ("20B", "8x24GB", {"tp": 3}, ["64 attention heads", "--tp 3"], ["1, 2, 4, 8, 16, 32, 64"]),
    ("20B", "8x24GB", {"pp": 45}, ["--pp 45", "44"], ["at most 44"]),
    ("20B", "2x48GB", {"tp": 4}, ["tp 4 needs 4 GPUs", "there are 2 GPUs"], ["--tp 2 --pp 1 --replicas 1"]),
    ("20B", "2x80GB", {"tp": 2, "pp": 2, "replicas": 2}, ["needs 8 GPUs"], ["--tp 2 --pp 1 --replicas 1"]),
    ("20B", "2x24GB", {"tp": 4, "nnodes": 2}, ["on one host", "2 GPUs on each of 2 hosts"], ["--tp 2"]),
    ("20B", "2x80GB", {"pp": 3, "nnodes": 2}, ["pp 3 cannot be laid evenly"], ["--pp"]),
    ("20B", "4x80GB", {"tp": 2, "world_size": 3}, ["tp 2", "started 3 ranks"], ["--tp 1"]),
    ("20B", "2x80GB", {"context": 4096}, ["4096", "2048"], ["at most 2048"]),
    ("20B", "2x80GB", {"batch_size": 0}, ["--batch-size 0"], ["at least 1"]),
]


@pytest.mark.parametrize(("name", "devices", "flags", "message", "hint"), IMPOSSIBLE)
def test_what_is_not_possible_says_what_is(name, devices, flags, message, hint) -> None:
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
    sizes = dict(re.findall(r"--(\w+) (\d+)", caught.value.hint or ""))
    plan = planned("20B", "6x48GB", **{name: int(size) for name, size in sizes.items()})
    assert (plan.tp, plan.pp) == (4, 1)


def test_the_number_of_gpus_that_is_suggested_works() -> None:
    with pytest.raises(UsageError) as caught:
        planned("20B", "1x16GB")
    suggested = re.search(r"\d+x16GB", caught.value.hint or "")
    assert suggested
    plan = planned("20B", suggested[0])
    assert plan.max_context == 2048


def test_host_too_small_says_how_much_is_missing() -> None:
    with pytest.raises(UsageError, match=r"41\.1 GB of bf16 weights.*too little"):
        planned("20B", "32GB", "cpu", cores=8)


def test_notes_say_what_differs_from_the_configuration() -> None:
    assert "pipe_parallel_size: 4 -> 1, 2 GPUs seen" in planned("20B", "2x48GB").notes
    assert "model_parallel_size: 2 -> 1, 1 GPU seen" in planned("20B", "1x80GB").notes
    assert "pipe_parallel_size: 4 -> 1, 2 cores seen" in planned("20B", "256GB", "cpu", 2).notes
    assert not any("parallel_size" in note for note in planned("20B", "8x24GB", tp=4, pp=2).notes)
    assert "1 GPU of 5 not used" in planned("20B", "5x24GB").notes
    assert "batch size: 64 -> 20, what fits at 2048 tokens each" in planned("20B", "2x48GB", batch_size=64).notes
    assert any("50432 assumed" in note for note in planned("20B", "2x48GB").notes)
    assert any("4 ranks share 2 cores" in note for note in planned("20B", "256GB", "cpu", 2, tp=4).notes)
