"""Which split is chosen, as a table: models x devices x flags."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest

from neoxrun.config.precisions import DeviceKind
from neoxrun.config.settings import Settings
from neoxrun.errors import UsageError
from neoxrun.planning.choose import choose_cpu, choose_gpus
from neoxrun.planning.decision import Cause, Decision, MemoryRefused, Misfit, SizeChanged, SizesRefused, SplitRule
from neoxrun.planning.described import parse_devices
from neoxrun.planning.devices import Device
from neoxrun.planning.explain import explain_reason
from neoxrun.planning.request import DIALOGUE, TYPICAL_PROMPTS, TYPICAL_TEXTS, Requested, Work
from neoxrun.planning.search import Search
from neoxrun.planning.split import ModelSplit
from support.plans import PUBLISHED, planned, settings_for

FEW = Work(3, 50, 64, 64)
ONE = Work(1, 50, 64, 64)
MANY = replace(TYPICAL_PROMPTS, prompts=10_000)

# (model, devices, flags) -> (tp, pp, replicas)
ON_GPUS = [
    ("20B", "2x48GB", {}, (2, 1, 1)),
    ("20B", "1x80GB", {}, (1, 1, 1)),
    ("20B", "1x48GB", {}, (1, 1, 1)),
    # Half the weights on each GPU are loaded and read in half the time, and leave three times the memory.
    ("20B", "2x80GB", {}, (2, 1, 1)),
    ("20B", "2x80GB", {"work": ONE}, (2, 1, 1)),
    ("20B", "2x80GB", {"work": FEW}, (2, 1, 1)),
    ("20B", "2x80GB", {"work": replace(FEW, prompts=256)}, (2, 1, 1)),
    ("20B", "2x80GB", {"work": DIALOGUE, "replicas": 1}, (2, 1, 1)),
    ("20B", "8x80GB", {"work": MANY}, (2, 1, 4)),
    ("20B", "8x80GB", {"work": FEW}, (8, 1, 1)),
    # Scoring waits for the processors, and has no cache: replicas need not wait for each other.
    ("20B", "2x80GB", {"work": TYPICAL_TEXTS}, (1, 1, 2)),
    ("20B", "8x80GB", {"work": TYPICAL_TEXTS}, (1, 1, 8)),
    ("20B", "2x48GB", {"work": TYPICAL_TEXTS}, (1, 1, 2)),
    ("20B", "4x22GB", {"work": TYPICAL_TEXTS}, (4, 1, 1)),  # the model does not fit on less
    # Through PCIe adding up is dear, and wide splits lose to replicas.
    ("20B", "8x48GB", {"work": MANY}, (2, 1, 4)),
    ("20B", "8x24GB", {}, (4, 1, 2)),
    ("20B", "5x24GB", {}, (4, 1, 1)),
    ("20B", "4x40GB", {}, (4, 1, 1)),
    ("20B", "4x40GB", {"work": MANY}, (4, 1, 1)),
    ("20B", "2x24GB", {}, (2, 1, 1)),
    ("20B", "16x16GB", {}, (8, 1, 2)),
    # Stages where nothing else fits.
    ("20B", "3x22GB", {}, (1, 3, 1)),
    ("20B", "2x22GB", {"nnodes": 2}, (2, 2, 1)),
    ("20B", "4x24GB", {"nnodes": 2}, (4, 1, 2)),
    ("20B", "1x80GB", {"nnodes": 3}, (1, 1, 3)),
    # Flags win.
    ("20B", "2x80GB", {"tp": 1}, (1, 1, 2)),
    ("20B", "4x48GB", {"tp": 2, "pp": 2}, (2, 2, 1)),
    ("20B", "2x80GB", {"pp": 2}, (1, 2, 1)),
    ("20B", "2x80GB", {"replicas": 2}, (1, 1, 2)),
    ("20B", "8x80GB", {"tp": 1, "pp": 1, "replicas": 1}, (1, 1, 1)),
    ("20B", "8x80GB", {"tp": 2, "replicas": 3}, (2, 1, 3)),
    ("20B", "8x48GB", {"world_size": 4}, (2, 1, 2)),
    ("pythia-1b", "8x24GB", {"tp": 8}, (8, 1, 1)),
    ("20B", "2x48GB", {"batch_size": 1}, (1, 1, 2)),
    ("20B", "4x80GB", {"dtype": "fp32"}, (4, 1, 1)),
    ("pythia-12b", "2x24GB", {}, (2, 1, 1)),
    ("pythia-12b", "2x48GB", {}, (1, 1, 2)),
    # Small models: replicas where there is work for them, else one GPU, which is ready sooner than two.
    *((name, "2x80GB", {"work": MANY}, (1, 1, 2)) for name in ("pythia-160m", "pythia-410m", "pythia-1.4b")),
    *((name, "2x80GB", {"work": ONE}, (1, 1, 1)) for name in ("pythia-160m", "pythia-410m", "pythia-1.4b")),
    ("pythia-160m", "4x80GB", {}, (1, 1, 1)),
    ("pythia-160m", "4x80GB", {"work": TYPICAL_TEXTS}, (1, 1, 4)),
    *((name, "1x80GB", {}, (1, 1, 1)) for name in PUBLISHED),
]


@pytest.mark.parametrize(("name", "devices", "flags", "expected"), ON_GPUS)
def test_split_on_gpus(name: str, devices: str, flags: dict[str, Any], expected: tuple[int, ...]) -> None:
    plan = planned(name, devices, **flags)
    assert (plan.tp, plan.pp, plan.replicas) == expected, explain_reason(plan)
    assert plan.max_context == 2048
    assert all(rank.total_bytes <= rank.free_bytes for rank in plan.devices)


# (model, host memory, cores, flags) -> (tp, pp, replicas, dtype)
ON_CPU = [
    ("pythia-160m", "16GB", 2, {}, (1, 1, 1, "fp32")),
    ("pythia-6.9b", "64GB", 2, {}, (2, 1, 1, "fp32")),
    ("pythia-6.9b", "64GB", 1, {}, (1, 1, 1, "fp32")),
    ("pythia-6.9b", "64GB", 0, {}, (2, 1, 1, "fp32")),
    ("pythia-6.9b", "24GB", 2, {}, (2, 1, 1, "bf16")),
    ("pythia-6.9b", "24GB", 2, {"dtype": "fp16"}, (2, 1, 1, "fp16")),
    ("20B", "256GB", 16, {}, (2, 1, 1, "fp32")),
    ("20B", "256GB", 1, {}, (1, 1, 1, "fp32")),
    ("20B", "256GB", 2, {"tp": 4}, (4, 1, 1, "fp32")),
    ("20B", "256GB", 2, {"pp": 3, "replicas": 2}, (1, 3, 2, "fp32")),
    ("pythia-6.9b", "64GB", 2, {"nnodes": 2}, (2, 1, 2, "fp32")),
    ("pythia-160m", "16GB", 2, {"world_size": 3}, (1, 1, 3, "fp32")),
]


@pytest.mark.parametrize(("name", "memory", "cores", "flags", "expected"), ON_CPU)
def test_split_on_the_cpu(
    name: str, memory: str, cores: int, flags: dict[str, Any], expected: tuple[int | str, ...]
) -> None:
    plan = planned(name, memory, "cpu", cores, **flags)
    assert (plan.tp, plan.pp, plan.replicas, plan.dtype) == expected, plan.decision
    assert plan.device_kind == "cpu"
    assert plan.gpus == ()


# (model, devices, kind, cores, flags) -> the rule that decided
RULES = [
    ("20B", "2x48GB", "cuda", 0, {}, SplitRule.FASTEST),
    ("20B", "1x80GB", "cuda", 0, {}, SplitRule.ONLY_ONE),
    ("20B", "2x80GB", "cuda", 0, {}, SplitRule.FASTEST),
    ("20B", "2x24GB", "cuda", 0, {}, SplitRule.FASTEST),
    ("20B", "2x23GB", "cuda", 0, {}, SplitRule.MOST_CONTEXT),
    ("20B", "3x22GB", "cuda", 0, {}, SplitRule.ONLY_ONE),
    ("20B", "2x80GB", "cuda", 0, {"tp": 2}, SplitRule.ONLY_ONE),
    ("20B", "4x48GB", "cuda", 0, {"tp": 2, "pp": 2}, SplitRule.REQUESTED),
    ("20B", "256GB", "cpu", 16, {}, SplitRule.CONFIGURED),
    ("20B", "256GB", "cpu", 1, {}, SplitRule.ONE_RANK),
    ("20B", "256GB", "cpu", 16, {"pp": 2}, SplitRule.REQUESTED),
]


@pytest.mark.parametrize(("name", "devices", "kind", "cores", "flags", "rule"), RULES)
def test_the_rule_that_decided(
    name: str, devices: str, kind: DeviceKind, cores: int, flags: dict[str, Any], rule: SplitRule
) -> None:
    decision = planned(name, devices, kind, cores, **flags).decision
    seen = len(parse_devices(devices)) if kind == "cuda" else cores
    assert replace(decision, forecast=None) == Decision(rule, Requested(**flags), seen)
    assert (decision.forecast is None) == (kind == "cpu")


def test_the_number_format_that_was_too_large() -> None:
    assert planned("pythia-6.9b", "64GB", "cpu").decision.precision_too_large is None
    assert planned("pythia-6.9b", "24GB", "cpu").decision.precision_too_large == "fp32"
    assert planned("pythia-6.9b", "24GB", "cpu", dtype="bf16").decision.precision_too_large is None


def tensor_note(settings: Settings, devices: list[Device], **flags: object) -> SizeChanged | None:
    choose = choose_gpus if devices[0].kind == "cuda" else choose_cpu
    chosen = choose(settings, devices if devices[0].kind == "cuda" else devices[0], Requested(**flags), 50304)
    found = [note for note in chosen.notes if isinstance(note, SizeChanged) and note.key == "model_parallel_size"]
    assert len(found) <= 1
    return found[0] if found else None


def host(memory: int, cores: int = 16) -> list[Device]:
    return [Device("cpu", 0, "CPU", memory, memory, cores)]


TWO = settings_for(16, 2048, 8, tp=2)
THREE = settings_for(16, 2048, 8, tp=3)


@pytest.mark.parametrize(
    ("settings", "devices", "flags", "cause"),
    [
        (TWO, parse_devices("1x80GB"), {}, Cause.DEVICES),
        (THREE, parse_devices("1x80GB"), {}, Cause.INDIVISIBLE),
        (TWO, host(64 * 10**9, cores=1), {}, Cause.DEVICES),
        (TWO, host(64 * 10**9), {"pp": 2}, Cause.OTHER_FLAG),
        (TWO, host(64 * 10**9), {"world_size": 3}, Cause.STARTED_RANKS),
        (THREE, host(64 * 10**9), {}, Cause.INDIVISIBLE),
        (TWO, host(64 * 10**9), {}, None),
        (TWO, host(64 * 10**9), {"tp": 1}, None),
    ],
)
def test_why_the_tensor_parallel_size_is_not_the_configurations(
    settings: Settings, devices: list[Device], flags: dict[str, Any], cause: Cause | None
) -> None:
    note = tensor_note(settings, devices, **flags)
    assert (note and note.cause) == cause
    assert note is None or (note.configured, note.planned) == (settings.model.model_parallel_size, 1)


def test_one_rank_needs_less_memory_than_two() -> None:
    """Where two ranks do not fit, by the least free memory with which one does."""
    low, high = 0, 64 * 10**9
    while high - low > 10**6:
        middle = (low + high) // 2
        fits = not isinstance(choose_cpu(TWO, host(middle)[0], Requested(dtype="bf16"), 50304), MemoryRefused)
        low, high = (low, middle) if fits else (middle, high)
    note = tensor_note(TWO, host(high), dtype="bf16")
    assert note == SizeChanged("model_parallel_size", 2, 1, Cause.MEMORY)


def gpus(text: str, **flags: object) -> object:
    return choose_gpus(PUBLISHED["20B"][0], parse_devices(text), Requested(**flags), 50432)


def test_refused_sizes_are_facts() -> None:
    refusal = gpus("2x48GB", tp=4)
    assert refusal == SizesRefused(Misfit.TOO_FEW_GPUS, Requested(tp=4), "cuda", 2, ModelSplit(2, 1))
    refusal = gpus("2x48GB", tp=4, nnodes=2)
    assert refusal == SizesRefused(Misfit.GROUP_TOO_WIDE, Requested(tp=4, nnodes=2), "cuda", 2, ModelSplit(2, 1, 2))
    refusal = gpus("2x80GB", pp=3, nnodes=2)
    assert isinstance(refusal, SizesRefused)
    assert refusal.misfit is Misfit.UNEVEN
    refusal = choose_cpu(PUBLISHED["20B"][0], host(10**12)[0], Requested(replicas=3, nnodes=2), 50432)
    assert refusal == SizesRefused(Misfit.UNEVEN, Requested(replicas=3, nnodes=2), "cpu", 1, None)


def test_refused_memory_says_what_would_fit() -> None:
    refusal = gpus("2x24GB", dtype="fp32")
    assert isinstance(refusal, MemoryRefused)
    assert refusal.split == ModelSplit(2, 1)
    assert refusal.need_bytes > refusal.usable_bytes
    instead = refusal.alternatives
    assert instead.sizes is None
    assert instead.host_precision == "fp32"
    assert instead.gpus is not None
    assert instead.gpu_free_bytes is not None
    planned("20B", f"{instead.gpus}x24GB", dtype="fp32", context=2048)
    with pytest.raises(UsageError):
        planned("20B", f"{instead.gpus - 1}x24GB", dtype="fp32", context=2048)
    for free, fits in ((instead.gpu_free_bytes, True), (instead.gpu_free_bytes - 10**3, False)):
        devices = [Device("cuda", index, "GPU", free, free) for index in range(2)]
        refused = isinstance(
            choose_gpus(PUBLISHED["20B"][0], devices, Requested(dtype="fp32", context=2048), 50432), MemoryRefused
        )
        assert refused is not fits
    half = gpus("2x40GB", dtype="fp32")
    assert isinstance(half, MemoryRefused)
    assert half.alternatives.half_precision
    other = gpus("2x40GB", tp=1, pp=1)
    assert isinstance(other, MemoryRefused)
    assert other.alternatives.sizes == ModelSplit(2, 1)
    assert other.alternatives.gpus is other.alternatives.gpu_free_bytes is None


@pytest.mark.parametrize(
    ("devices", "flags"),
    [
        ("2x48GB", {}),
        ("4x24GB,2x80GB", {}),
        ("1x24GB", {}),
        ("1x24GB", {"context": 2048}),
        ("64x1GB", {"context": 2048}),
        ("2x40GB", {"dtype": "fp32"}),
        ("2x40GB", {"tp": 1, "pp": 1}),
        ("2x48GB", {"tp": 4}),
    ],
)
def test_no_search_is_run_twice(devices: str, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Search] = []
    splits = Search.__dict__["splits"].func

    def recorded(search: Search) -> list[ModelSplit]:
        ran.append(search)
        found: list[ModelSplit] = splits(search)
        return found

    counting = cached_property(recorded)
    counting.__set_name__(Search, "splits")
    monkeypatch.setattr(Search, "splits", counting)
    try:
        planned("20B", devices, **flags)
    except UsageError:
        assert (devices, flags) not in (("2x48GB", {}), ("4x24GB,2x80GB", {}))
    assert ran
    assert len(set(ran)) == len(ran)
