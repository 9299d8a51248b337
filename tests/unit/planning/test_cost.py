"""The estimate of time: what was measured, and what must hold for every estimate."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.config.precisions import precisions_for
from neoxrun.planning.cost import CostModel, Estimate
from neoxrun.planning.hardware import NVLINK, PCIE, Speed, speed_of
from neoxrun.planning.memory import usable_bytes
from neoxrun.planning.request import TYPICAL_PROMPTS, Requested, Work
from neoxrun.planning.search import Search
from neoxrun.planning.split import ModelSplit, Sizing
from support.plans import PUBLISHED, gpus, settings_for

H100 = speed_of(gpus(1, "NVIDIA H100 80GB HBM3", 85)[0])
USABLE = 81 * 10**9  # of such a GPU, while `neoxrun bench` ran


def cost_of(name: str, work: Work, speed: Speed = H100, **options: int) -> CostModel:
    sizing = Sizing(PUBLISHED[name][0].model, 50432, precisions_for("fp16", "cuda"), "cuda", 2048)
    return CostModel(sizing, speed, work, **({"most_sequences": 256} | options))


def estimated(name: str, tp: int, work: Work, **options: int) -> Estimate:
    cost, split = cost_of(name, work, **options), ModelSplit(tp, 1)
    return cost.estimate(split, cost.sizing.tokens(split, USABLE))


# docs/performance.md: `neoxrun bench` on one and two H100 80GB (2026-11-26), tokens/s.
# Each decode has prompts of 32 ids, and 96 new ones; the first of these comes with the prompts, and is left out there.
DECODED = [
    *(("20B", 1, batch, rate) for batch, rate in ((1, 69), (16, 1054), (64, 3570))),
    *(("20B", 2, batch, rate) for batch, rate in ((1, 129), (16, 1959), (64, 6618))),
    *(("pythia-410m", 1, batch, rate) for batch, rate in ((1, 1272), (16, 17756), (64, 59497))),
]
MIXED = Work(256, 210, 132, 256)  # 20 to 400 ids, 8 to 256 new ones


@pytest.mark.parametrize(("name", "tp", "batch", "measured"), DECODED)
def test_decoding_is_as_fast_as_measured(name: str, tp: int, batch: int, measured: float) -> None:
    whole = estimated(name, tp, Work(batch, 32, 96, 96))
    prompts = estimated(name, tp, Work(batch, 32, 0, 0))
    assert batch * 96 / (whole.working - prompts.working) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(("tp", "measured"), [(1, 2213), (2, 4886)])
def test_the_mixed_set_is_as_fast_as_measured(tp: int, measured: float) -> None:
    assert estimated("20B", tp, MIXED).tokens_per_second == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(("tp", "measured"), [(1, 15_230), (2, 26_657)])
def test_prompts_are_read_as_fast_as_measured(tp: int, measured: float) -> None:
    assert estimated("20B", tp, Work(16, 1024, 0, 0)).tokens_per_second == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("tp", "shortest", "longest"), [(1, 36, 39), (2, 23.7, 23.7)])
def test_scoring_takes_as_long_as_measured(tp: int, shortest: float, longest: float) -> None:
    """All of LAMBADA and PIQA: 2.4e16 operations, two for each parameter and token."""
    tokens = round(2.4e16 / (2 * 20.24e9))
    assert 0.9 * shortest < estimated("20B", tp, Work(1, tokens, 0, 0)).working < 1.1 * longest


def test_loading_is_as_fast_as_measured() -> None:
    """Two ranks of the 20B from the page cache: 4 to 5 s; starting them comes on top."""
    assert 4 < estimated("20B", 2, MIXED).loading - 2 < 5


def test_work_is_kept_within_the_context() -> None:
    assert Work(3, 4000, 100, 4000).within(2048) == Work(3, 2047, 1, 1)
    assert Work(3, 100, 4000, 4000).within(2048) == Work(3, 100, 1948, 1948)
    assert Work(3, 4000, 0, 0).within(2048) == Work(3, 2048, 0, 0)
    assert Work(3, 100, 50, 60).within(2048) == Work(3, 100, 50, 60)


def test_a_stage_waits_for_the_ones_before_it() -> None:
    cost = cost_of("20B", TYPICAL_PROMPTS)
    whole, divided = (cost.estimate(split, 10**6).working for split in (ModelSplit(1, 1), ModelSplit(1, 4)))
    assert whole < divided
    far = replace(cost, nnodes=2).estimate(ModelSplit(1, 4), 10**6).working
    assert divided < far


def test_a_sequential_residual_adds_up_twice() -> None:
    cost = cost_of("20B", Work(1, 1, 100, 100))
    model = replace(cost.sizing.model, gpt_j_residual=False)
    twice = replace(cost, sizing=replace(cost.sizing, model=model))
    one, two = (each.estimate(ModelSplit(2, 1), 10**6).working for each in (cost, twice))
    assert (two - one) / 101 == pytest.approx(44 * (NVLINK.seconds + 2 * 6144 / NVLINK.bytes_per_second), rel=0.01)


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_a_slower_link_costs_more(tp: int) -> None:
    cost = cost_of("20B", TYPICAL_PROMPTS)
    slow = replace(cost, speed=replace(H100, link=PCIE))
    split = ModelSplit(tp, 1)
    assert slow.estimate(split, 10**6).working > cost.estimate(split, 10**6).working
    assert slow.estimate(ModelSplit(1, 1), 10**6) == cost.estimate(ModelSplit(1, 1), 10**6)


WORKS = st.builds(
    lambda prompts, length, new, more: Work(prompts, length, new, new + more if new else 0),
    prompts=st.sampled_from([1, 2, 3, 17, 256, 10_000]),
    length=st.integers(1, 1000),
    new=st.integers(0, 400),
    more=st.integers(0, 300),
)
SPEEDS = st.builds(
    Speed,
    name=st.just("GPU"),
    bytes_per_second=st.floats(1e11, 1e13),
    half_flops=st.floats(1e13, 1e15),
    full_flops=st.floats(1e13, 1e14),
    link=st.sampled_from([NVLINK, PCIE]),
)
SIZINGS = st.builds(
    lambda layers, heads, residual: Sizing(
        settings_for(layers, heads * 64, heads, gpt_j_residual=residual).model,
        50304,
        precisions_for("fp16", "cuda"),
        "cuda",
        2048,
    ),
    layers=st.integers(1, 48),
    heads=st.sampled_from([1, 3, 8, 16, 40, 64]),
    residual=st.booleans(),
)
MEMORY = st.integers(2 * 10**9, 90 * 10**9)


@given(SIZINGS, SPEEDS, WORKS, st.integers(1, 9), st.integers(1, 2), MEMORY, MEMORY)
def test_the_best_split_is_the_fastest_that_fits_and_more_memory_never_makes_it_slower(
    sizing: Sizing, speed: Speed, work: Work, per_host: int, nnodes: int, memory: int, more: int
) -> None:
    search = Search(sizing, Requested(nnodes=nnodes), per_host)
    cost = CostModel(sizing, speed, work, 256, nnodes)
    found = search.best(usable_bytes(memory), cost)
    if found is None or found.tokens < sizing.context:
        return
    assert sizing.rank_bytes(found.split, sizing.context) <= usable_bytes(memory)
    for split in search.splits:
        tokens = sizing.tokens(split, usable_bytes(memory))
        if tokens >= sizing.context:
            assert cost.estimate(split, tokens).seconds >= found.estimate.seconds * (1 - 1e-8), split
    larger = search.best(usable_bytes(memory + more), cost)
    assert larger is not None
    assert larger.estimate.seconds <= found.estimate.seconds * (1 + 1e-8)


@given(SIZINGS, SPEEDS, WORKS, st.integers(1, 8))
def test_more_replicas_are_never_slower_once_they_are_loaded(
    sizing: Sizing, speed: Speed, work: Work, replicas: int
) -> None:
    cost = CostModel(sizing, speed, work, 256)
    fewer, more = (cost.estimate(ModelSplit(1, 1, count), 10**5) for count in (replicas, replicas + 1))
    assert more.working <= fewer.working * (1 + 1e-8)
