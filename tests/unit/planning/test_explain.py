"""The words of a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neoxrun.errors import UsageError
from neoxrun.planning.described import parse_devices
from neoxrun.planning.devices import Device
from neoxrun.planning.explain import explain_notes, explain_reason
from neoxrun.planning.plan import Plan
from neoxrun.planning.request import TYPICAL_TEXTS, Work
from support.plans import planned


def test_notes_say_what_differs_from_the_configuration() -> None:
    assert "pipe_parallel_size: 4 -> 1, as there are 2 GPUs" in notes("20B", "2x48GB")
    assert "model_parallel_size: 2 -> 1, as there is 1 GPU" in notes("20B", "1x80GB")
    assert "model_parallel_size: 2 -> 1, as there is 1 GPU on each of 3 hosts" in notes("20B", "1x80GB", nnodes=3)
    assert "pipe_parallel_size: 4 -> 1, as stages gain nothing on one CPU" in notes("20B", "256GB", "cpu", 2)
    assert "pipe_parallel_size: 4 -> 1, as --tp 2 is given without --pp" in notes("20B", "256GB", "cpu", 2, tp=2)
    assert "pipe_parallel_size: 4 -> 1, estimated to be faster on 8 GPUs" in notes("20B", "8x80GB")
    assert "model_parallel_size: 2 -> 8, estimated to be faster on 8 GPUs" in notes("20B", "8x80GB")
    assert "model_parallel_size: 2 -> 1, to go with --pp 2" in notes("20B", "2x80GB", pp=2)
    assert "model_parallel_size: 2 -> 1, as 2 would leave room for fewer tokens" in notes("20B", "3x22GB")
    assert "model_parallel_size: 2 -> 1, 3 ranks started" in notes("20B", "4x80GB", world_size=3)
    assert "model_parallel_size: 2 -> 1, as there is 1 core" in notes("20B", "256GB", "cpu", 1)
    assert not any("parallel_size" in note for note in notes("20B", "8x24GB", tp=4, pp=2))
    assert "1 GPU of 5 not used" in notes("20B", "5x24GB")
    assert "batch size: 64 -> 23, what fits at 2048 tokens each" in notes("20B", "2x48GB", batch_size=64)
    assert "context: 2048 -> 1952, what fits" in notes("20B", "2x23GB")
    assert any("50432 assumed" in note for note in notes("20B", "2x48GB"))
    assert any("4 ranks share 2 cores" in note for note in notes("20B", "256GB", "cpu", 2, tp=4))


def test_bf16_on_a_cpu_is_said_with_its_reason() -> None:
    native = [replace(device, native_bf16=True) for device in parse_devices("256GB", "cpu")]
    said = "precision: fp16 -> bf16, which this CPU computes natively; --dtype fp32 is exact"
    assert planned("20B", native).dtype == "bf16"
    assert said in notes("20B", native)
    for quiet in ({"dtype": "bf16"}, {"dtype": "fp32"}, {"exact": True}):
        assert not any("precision" in note for note in notes("20B", native, **quiet))
    assert planned("20B", native, exact=True).dtype == "fp32"
    assert "precision: fp16 -> bf16, as fp32 does not fit" in notes("20B", "64GB", "cpu", 1)
    assert not any("precision" in note for note in notes("20B", "256GB", "cpu", 1))


def test_a_flag_for_one_size_is_why_the_other_is_one_on_the_cpu() -> None:
    found = notes("20B", "256GB", "cpu", 2, pp=2)
    assert "model_parallel_size: 2 -> 1, as --pp 2 is given without --tp" in found
    assert not any("pipe_parallel_size" in note for note in found)
    assert not any("model_parallel_size" in note for note in notes("20B", "256GB", "cpu", 2, tp=2, pp=2))
    assert "model_parallel_size: 2 -> 1, 3 ranks started" in notes("20B", "256GB", "cpu", 3, world_size=3)


TYPICAL = "256 prompts of 200 tokens and 128 new tokens each"

REASONS = {
    "memory decides": (
        ("20B", "2x48GB"),
        {},
        f"The fastest split for {TYPICAL} is estimated to be tp 2 x pp 1 x replicas 1: 6.6 s to start and load and 44 s"
        " at 750 tokens/s; tp 1 x pp 1 x replicas 2 would take 11 s to start and load and 75 s at 440 tokens/s, as"
        " each replica has room for 19 such sequences at a time instead of 170.",
    ),
    "the link decides": (
        ("20B", "8x24GB"),
        {},
        f"The fastest split for {TYPICAL} is estimated to be tp 4 x pp 1 x replicas 2: 4.3 s to start and load and 22 s"
        " at 1,500 tokens/s; tp 8 x pp 1 x replicas 1 would take 3.1 s to start and load and 31 s at 1,100 tokens/s.",
    ),
    "one prompt": (
        ("pythia-160m", "2x80GB"),
        {"work": Work(1, 200, 64, 64)},
        "The fastest split for 1 prompt of 200 tokens and 64 new tokens is estimated to be tp 1 x pp 1 x replicas 1:"
        " 0.07 s to start and load and 0.03 s at 2,400 tokens/s; tp 2 x pp 1 x replicas 1 would take 2.0 s to start and"
        " load and 0.03 s at 2,200 tokens/s.",
    ),
    "scoring": (
        ("20B", "2x80GB"),
        {"work": TYPICAL_TEXTS},
        "The fastest split for scoring 50,000 texts of 100 tokens is estimated to be tp 1 x pp 1 x replicas 2: 11 s to"
        " start and load and 516 s at 9,700 tokens/s; tp 2 x pp 1 x replicas 1 would take 6.6 s to start and load and"
        " 536 s at 9,300 tokens/s.",
    ),
    "one GPU": (
        ("20B", "1x80GB"),
        {},
        "One GPU holds a whole replica: 41.1 GB of fp16 weights and room for 17 sequences of 2048 tokens."
        f" Estimated for {TYPICAL}: 9.1 s to start and load and 29 s at 1,100 tokens/s.",
    ),
    "all GPUs": (
        ("20B", "2x23GB"),
        {},
        "2 GPUs for one replica: its 41.1 GB of fp16 weights leave room for no more than 1 sequence of 1952 tokens."
        f" Estimated for {TYPICAL}: 6.6 s to start and load and 196 s at 170 tokens/s.",
    ),
    "one flag": (
        ("20B", "2x80GB"),
        {"tp": 2},
        "With tp 2 as asked for: A replica is split over 2 GPUs, the only way possible: 41.1 GB of fp16 weights and"
        f" room for 53 sequences of 2048 tokens. Estimated for {TYPICAL}: 6.6 s to start and load and 15 s at 2,200"
        " tokens/s.",
    ),
    "both flags": (
        ("20B", "2x80GB"),
        {"tp": 1, "pp": 2},
        "The split is the one asked for: 41.1 GB of fp16 weights and room for 53 sequences of 2048 tokens in each"
        f" replica. Estimated for {TYPICAL}: 6.6 s to start and load and 29 s at 1,100 tokens/s.",
    ),
    "configured": (
        ("20B", "256GB", "cpu", 2),
        {},
        "The split keeps the configuration's tensor-parallel size, as 2 cores are enough for its 2 ranks: 82.2 GB of"
        " fp32 weights and room for 39 sequences of 2048 tokens.",
    ),
    "one rank": (
        ("20B", "64GB", "cpu", 1),
        {},
        "One rank has all of the host to itself, as splitting gains nothing on one CPU: 41.1 GB of bf16 weights and"
        " room for 5 sequences of 2048 tokens. In fp32 it would not fit.",
    ),
    "flag on the CPU": (
        ("20B", "256GB", "cpu", 2),
        {"pp": 2},
        "The split is the one asked for: 82.2 GB of fp32 weights and room for 39 sequences of 2048 tokens.",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_reasons(case: str) -> None:
    where, flags, expected = REASONS[case]
    assert explain_reason(planned(*where, **flags)) == expected


def notes(name: str, devices: str | list[Device], kind: str = "cuda", cores: int = 0, **flags: object) -> list[str]:
    plan: Plan = planned(name, devices, kind, cores, **flags)
    return explain_notes(plan)


def test_replicas_on_one_cpu() -> None:
    reason = explain_reason(planned("pythia-410m", "64GB", "cpu", 8, replicas=2))
    assert reason.startswith("Each replica is one rank")
    with pytest.raises(UsageError, match="in 100 ranks") as caught:
        planned("pythia-410m", "64GB", "cpu", 8, replicas=100)
    assert "fewer ranks" in (caught.value.hint or "")
