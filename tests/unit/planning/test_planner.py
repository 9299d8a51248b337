"""What a plan holds, and what must hold for every plan."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neoxrun.config.precisions import DeviceKind, precisions_for
from neoxrun.config.settings import Precision, Settings
from neoxrun.errors import UsageError
from neoxrun.planning.decision import ContextShortened, GpuLeftOut, GpusNotUsed, SizeChanged
from neoxrun.planning.devices import Device
from neoxrun.planning.memory import paging_of
from neoxrun.planning.planner import make_plan
from neoxrun.planning.request import Requested
from support.plans import OPTIONS, planned, settings_for


def test_no_gpu_is_an_error() -> None:
    with pytest.raises(UsageError) as caught:
        planned("20B", [])
    assert caught.value.code == "no_gpu"


def test_a_shorter_context_is_better_than_none() -> None:
    plan = planned("20B", "2x23GB")
    assert 256 <= plan.max_context < 2048
    assert plan.max_batch == 1
    assert ContextShortened(2048, plan.max_context) in plan.notes
    with pytest.raises(UsageError):
        planned("20B", "2x23GB", context=2048)


def test_a_gpu_that_is_in_use_is_left_out() -> None:
    free = (80, 1, 80, 79)
    gpus = [Device("cuda", index, "H100", 80 * 10**9, gb * 10**9) for index, gb in enumerate(free)]
    plan = planned("20B", gpus, tp=1)
    assert plan.gpus == (0, 2, 3)
    assert (plan.tp, plan.pp, plan.replicas) == (1, 1, 3)
    assert GpuLeftOut(1, 10**9) in plan.notes
    plan = planned("20B", gpus)
    assert plan.gpus == (0, 2)
    assert (plan.tp, plan.pp, plan.replicas) == (2, 1, 1)
    assert [note for note in plan.notes if not isinstance(note, SizeChanged)][:2] == [
        GpuLeftOut(1, 10**9),
        GpusNotUsed(1, 3),
    ]


def test_ranks_are_numbered_as_in_gpt_neox() -> None:
    """Tensor parallel fastest, then replicas, then stages; a host's GPUs in order."""
    plan = planned("20B", "4x80GB", tp=2, pp=2, nnodes=2)
    assert plan.replicas == 2
    assert [(r.rank, r.node, r.device, r.stage, r.tensor_rank) for r in plan.devices] == [
        (0, 0, 0, 0, 0),
        (1, 0, 1, 0, 1),
        (4, 1, 0, 1, 0),
        (5, 1, 1, 1, 1),
    ]


def test_a_plan_is_a_value() -> None:
    """It travels to the ranks, and says the same there."""
    plan = planned("20B", "2x80GB", tp=2)
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert plan == planned("20B", "2x80GB", tp=2)
    assert hash(plan) == hash(planned("20B", "2x80GB", tp=2))


@pytest.mark.parametrize("dtype", [None, "fp32", "bf16"])
@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_precisions_are_decided_in_one_module(kind: DeviceKind, dtype: Precision | None) -> None:
    plan = planned("pythia-160m", "80GB", kind, dtype=dtype)
    assert plan.dtype == (dtype or {"cuda": "fp16", "cpu": "fp32"}[kind])
    assert plan.precisions == precisions_for(plan.dtype, kind)


MODELS = st.builds(
    lambda layers, heads, head_dim, tp, pp, options: settings_for(
        layers, heads * head_dim, heads, tp=tp, pp=pp, **options
    ),
    layers=st.integers(1, 48),
    heads=st.sampled_from([1, 3, 4, 7, 8, 12, 16, 40, 64]),
    head_dim=st.sampled_from([16, 64, 96]),
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([0, 1, 4]),
    options=st.sampled_from(OPTIONS[:-1]),
)
REQUESTS = st.builds(
    Requested,
    tp=st.none() | st.sampled_from([1, 2, 3, 4, 8]),
    pp=st.none() | st.integers(1, 6),
    replicas=st.none() | st.integers(1, 4),
    batch_size=st.none() | st.integers(1, 300),
    nnodes=st.integers(1, 3),
)
MEMORY = st.integers(10**9, 60 * 10**9)


def gpus_of(free: list[int]) -> list[Device]:
    return [Device("cuda", index, "NVIDIA H100 80GB HBM3", memory, memory) for index, memory in enumerate(free)]


@given(MODELS, REQUESTS, st.lists(MEMORY, min_size=1, max_size=9), st.booleans())
def test_every_plan_is_possible(settings: Settings, requested: Requested, free: list[int], on_cpu: bool) -> None:
    devices = [Device("cpu", 0, "CPU", sum(free), sum(free), cores=len(free))] if on_cpu else gpus_of(free)
    model = settings.model
    try:
        plan = make_plan(settings, devices, requested, vocab_size=50304)
    except UsageError:
        assume(False)
    for name in ("tp", "pp", "replicas"):
        assert getattr(requested, name) in (None, getattr(plan, name))
    per_host, odd = divmod(plan.world_size, requested.nnodes)
    assert odd == 0
    assert per_host % plan.tp == 0, "a tensor-parallel group is on one host"
    assert model.num_attention_heads % plan.tp == 0
    assert model.num_layers >= plan.pp
    assert 1 <= plan.max_context <= model.max_context
    assert 1 <= plan.max_batch <= (requested.batch_size or 256)
    assert len(plan.devices) == plan.tp * plan.pp
    if not on_cpu:
        assert len(set(plan.gpus)) == per_host <= len(devices)
    for rank in plan.devices:
        assert rank.total_bytes == rank.weights_bytes + rank.kv_cache_bytes + rank.workspace_bytes
        assert rank.total_bytes <= rank.free_bytes
    layers = [rank.num_layers for rank in plan.devices if rank.tensor_rank == 0]
    assert sum(layers) == model.num_layers
    assert min(layers) >= 1
    weights = sum(rank.weights_bytes for rank in plan.devices)
    assert weights >= plan.parameters * {"fp32": 4, "fp16": 2, "bf16": 2}[plan.dtype]


@given(MODELS, REQUESTS, st.integers(1, 9), MEMORY, MEMORY)
def test_more_memory_is_never_slower(
    settings: Settings, requested: Requested, count: int, memory: int, more: int
) -> None:
    try:
        small = make_plan(settings, gpus_of([memory] * count), requested, vocab_size=50304)
    except UsageError:
        assume(False)
    large = make_plan(settings, gpus_of([memory + more] * count), requested, vocab_size=50304)
    assert large.max_context >= small.max_context
    if small.max_context == settings.model.max_context:
        seconds = [plan.decision.forecast.chosen.seconds for plan in (small, large)]
        assert seconds[1] <= seconds[0] * (1 + 1e-8)


@given(MODELS, REQUESTS, st.integers(1, 3), MEMORY)
def test_the_cache_has_pages_for_what_is_planned(
    settings: Settings, requested: Requested, count: int, memory: int
) -> None:
    """With a page that no sequence may have, as the engine has it on GPUs."""
    try:
        plan = make_plan(settings, gpus_of([memory] * count), requested, vocab_size=50304)
    except UsageError:
        assume(False)
    paging = paging_of("cuda", plan.max_context)
    assert (paging.size, paging.spare) == (32, 1)
    for rank in plan.devices:
        token_bytes = plan.kv_bytes_per_token * rank.num_layers // settings.model.num_layers // plan.tp
        pages = paging.pages_in(rank.kv_cache_bytes, token_bytes)
        assert pages == plan.max_batch * paging.pages_of(plan.max_context)
