"""From devices to a split: on GPUs by the rules of ``search``, on the CPU by the configuration. No torch.

On the CPU all ranks share the memory and cores of one host, so that splitting gains nothing: the
configuration's tensor-parallel size is kept where every rank has a core (the checkpoint is then computed
rank by rank, as it was trained), else there is one rank. Pipeline stages would only wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from neoxrun.config.precisions import precisions_for, preferred_precisions
from neoxrun.config.settings import ModelConfig, Settings
from neoxrun.planning.cost import CostModel
from neoxrun.planning.decision import (
    Alternatives,
    Cause,
    CoresShared,
    Decision,
    Forecast,
    GpuLeftOut,
    GpusNotUsed,
    MemoryRefused,
    Misfit,
    Note,
    Refusal,
    SizeChanged,
    SizesRefused,
    SplitRule,
)
from neoxrun.planning.devices import Device
from neoxrun.planning.hardware import is_listed, slowest
from neoxrun.planning.memory import MAX_BATCH, free_bytes_for, usable_bytes
from neoxrun.planning.request import Requested
from neoxrun.planning.search import BestSplit, Search, lay_out_cpu, least_tokens_to_start
from neoxrun.planning.split import ModelSplit, Sizing, tensor_sizes

_MOST_GPUS_SUGGESTED = 64


@dataclass(frozen=True)
class Choice:
    """A split, and where it runs.

    Attributes:
        sizing: what was sized, in the number formats that were chosen.
        split: the sizes.
        devices: those of one host that it runs on, one for each of the host's ranks.
        tokens: of the longest sequence whose cache fits on every rank.
        decision: why this split.
        notes: what differs from the configuration, or is left unused.
    """

    sizing: Sizing
    split: ModelSplit
    devices: Sequence[Device]
    tokens: int
    decision: Decision
    notes: tuple[Note, ...] = ()


class _Attempt(NamedTuple):
    """A search on GPUs with at least ``free`` bytes each, of which ``usable`` may be filled."""

    search: Search
    cost: CostModel
    usable: int
    free: int


def choose_gpus(
    settings: Settings, devices: Sequence[Device], requested: Requested, vocab_size: int
) -> Choice | Refusal:
    """Choose a split for GPUs, each counted as the smallest one that is used; those too small are left out."""
    (precisions,) = preferred_precisions(requested.dtype, settings.precision, "cuda")
    context = requested.context or settings.model.max_context
    sizing = Sizing(settings.model, vocab_size, precisions, "cuda", context)
    freest = sorted(devices, key=lambda device: -device.free_bytes)
    most_sequences = requested.batch_size or MAX_BATCH["cuda"]
    attempts = []
    for least in sorted({device.free_bytes for device in devices}):  # first all the GPUs, then without the smaller ones
        large = [device for device in devices if device.free_bytes >= least]
        cost = CostModel(sizing, slowest(large), requested.work, most_sequences, requested.nnodes)
        attempts.append(_Attempt(Search(sizing, requested, len(large)), cost, usable_bytes(least), least))
    if not attempts[0].search.splits:
        return _refuse_sizes(attempts[0].search, attempts[0].usable)
    attempts = [attempt for attempt in attempts if attempt.search.splits]
    candidates = [
        (attempt, found) for attempt in attempts if (found := attempt.search.best(attempt.usable, attempt.cost))
    ]
    if not candidates:
        return _refuse_memory(min(attempts, key=lambda one: one.search.smallest_need / max(1, one.free)), settings)

    def merit(candidate: tuple[_Attempt, BestSplit]) -> tuple[int, float, int]:
        _, found = candidate
        return min(found.tokens, context), -found.estimate.seconds, -found.split.world_size

    attempt, found = max(candidates, key=merit)
    per_host = found.split.world_size // requested.nnodes
    used, unused = freest[:per_host], freest[per_host:]
    need = sizing.rank_bytes(found.split, min(context, found.tokens))
    small = [device for device in unused if usable_bytes(device.free_bytes) < need]
    notes: list[Note] = [GpuLeftOut(device.index, device.free_bytes) for device in small]
    if len(unused) > len(small):
        notes.append(GpusNotUsed(len(unused) - len(small), len(devices) - len(small)))
    # Without the GPUs that are not used, the smallest one may be larger.
    tokens = sizing.tokens(found.split, usable_bytes(used[-1].free_bytes))
    listed = all(is_listed(device) for device in used)
    rates = attempt.cost.rates(found.split, tokens) if listed else ()
    forecast = Forecast(attempt.cost.work, attempt.cost.speed, listed, rates, found.estimate, found.other)
    decision = Decision(found.rule, requested, len(devices), forecast=forecast)
    notes += _size_notes(
        settings.model, found.split, requested, *_gpu_causes(settings.model, attempt, attempts[0].search)
    )
    used.sort(key=lambda device: device.index)
    return Choice(sizing, found.split, used, tokens, decision, tuple(notes))


def choose_cpu(settings: Settings, host: Device, requested: Requested, vocab_size: int) -> Choice | Refusal:
    """Choose a split for one host's memory, in the first of the preferred number formats that fits."""
    model, context = settings.model, requested.context or settings.model.max_context
    splits, cause = _cpu_splits(model, host.cores, requested)
    if not splits:
        return SizesRefused(Misfit.UNEVEN, requested, "cpu", 1, nearest=None)
    native_bf16 = host.native_bf16 and not requested.exact
    preferred = preferred_precisions(requested.dtype, settings.precision, "cpu", native_bf16=native_bf16)
    candidates = [
        (sizing, split, sizing.tokens(split, usable_bytes(host.free_bytes) // _host_ranks(split, requested)))
        for precisions in preferred
        for sizing in [Sizing(model, vocab_size, precisions, "cpu", context)]
        for split in splits
    ]
    # A whole context in a smaller format is better than a shorter context.
    fitting = (
        candidate
        for wanted in (context, least_tokens_to_start(context, requested))
        for candidate in candidates
        if candidate[2] >= wanted
    )
    chosen = next(fitting, None)
    if chosen is None:
        return _refuse_host(*candidates[-1][:2], host, requested)
    sizing, split, tokens = chosen
    ranks = _host_ranks(split, requested)
    notes: list[Note] = [CoresShared(ranks, host.cores)] if 0 < host.cores < ranks else []
    if requested.tp or requested.pp:
        rule = SplitRule.REQUESTED
    else:
        rule = SplitRule.ONE_RANK if split.replica_size == 1 else SplitRule.CONFIGURED
    decision = Decision(
        rule,
        requested,
        host.cores,
        precision_too_large=preferred[0].weights if sizing.precisions != preferred[0] else None,
    )
    pipe_cause = Cause.OTHER_FLAG if requested.tp else Cause.ONE_CPU
    notes += _size_notes(model, split, requested, pipe_cause, cause if split == splits[0] else Cause.MEMORY)
    share = replace(host, free_bytes=host.free_bytes // ranks)
    return Choice(sizing, split, [share] * ranks, tokens, decision, tuple(notes))


def _cpu_splits(model: ModelConfig, cores: int, requested: Requested) -> tuple[list[ModelSplit], Cause]:
    """The splits to try, the best first, and why the first does not have the configuration's tensor-parallel size."""
    if requested.tp or requested.pp:
        split = lay_out_cpu(model, requested.tp or 1, requested.pp or 1, requested)
        return [split] if split else [], Cause.OTHER_FLAG
    configured = model.model_parallel_size
    one_rank = lay_out_cpu(model, 1, 1, requested)
    if cores and configured > cores:
        return [one_rank] if one_rank else [], Cause.DEVICES
    kept = lay_out_cpu(model, configured, 1, requested)
    cause = Cause.STARTED_RANKS if configured in tensor_sizes(model) else Cause.INDIVISIBLE
    return [split for split in dict.fromkeys((kept, one_rank)) if split], cause


def _host_ranks(split: ModelSplit, requested: Requested) -> int:
    """Ranks of one host."""
    return split.world_size // requested.nnodes


def _gpu_causes(model: ModelConfig, attempt: _Attempt, widest: Search) -> tuple[Cause, Cause]:
    """Why a plan for GPUs may have other pipeline and tensor-parallel sizes than the configuration.

    Args:
        model: the network, with the sizes that its configuration names.
        attempt: the search that the plan comes from.
        widest: the search on all of the GPUs.
    """
    search, requested = attempt.search, attempt.search.requested
    forced = any((requested.tp, requested.pp, requested.replicas, requested.world_size))

    def cause(wanted: int, size_of: Callable[[ModelSplit], int]) -> Cause:
        splits = [split for split in search.splits if size_of(split) == wanted]
        if splits:
            holds = any(search.sizing.tokens(split, attempt.usable) >= search.sizing.context for split in splits)
            return Cause.SLOWER if holds else Cause.MEMORY
        everything = replace(widest, requested=Requested(nnodes=requested.nnodes)) if forced else widest
        if wanted not in map(size_of, everything.splits):
            return Cause.DEVICES
        if not forced:
            return Cause.MEMORY
        return Cause.STARTED_RANKS if requested.world_size else Cause.OTHER_FLAG

    tensor = model.model_parallel_size
    indivisible = tensor not in tensor_sizes(model)
    return (
        cause(max(1, model.pipe_parallel_size), lambda split: split.pp),
        Cause.INDIVISIBLE if indivisible else cause(tensor, lambda split: split.tp),
    )


def _size_notes(
    model: ModelConfig, split: ModelSplit, requested: Requested, pipe_cause: Cause, tensor_cause: Cause
) -> list[Note]:
    """One note for each size in the configuration that differs from the plan's and that no flag sets."""
    sizes = (
        ("pipe_parallel_size", model.pipe_parallel_size, split.pp, requested.pp, pipe_cause),
        ("model_parallel_size", model.model_parallel_size, split.tp, requested.tp, tensor_cause),
    )
    return [
        SizeChanged(key, configured, planned, cause)
        for key, configured, planned, forced, cause in sizes
        if forced is None and max(1, configured) != planned
    ]


def _refuse_sizes(search: Search, usable: int) -> SizesRefused:
    """Sizes that cannot be spread over these GPUs, with the nearest that can, on ``usable`` bytes of each."""
    requested, per_host = search.requested, search.per_host
    ranks = (requested.tp or 1) * (requested.pp or 1) * (requested.replicas or 1)
    if ranks > per_host * requested.nnodes:
        misfit = Misfit.TOO_FEW_GPUS
    elif requested.tp and requested.tp > per_host:
        misfit = Misfit.GROUP_TOO_WIDE
    else:
        misfit = Misfit.UNEVEN
    return SizesRefused(misfit, requested, "cuda", per_host, search.nearest(usable))


def _refuse_memory(attempt: _Attempt, settings: Settings) -> MemoryRefused:
    """A model that does not fit on the GPUs of an attempt, with what would fit instead."""
    search, cost, usable, free = attempt
    sizing, requested, need = search.sizing, search.requested, search.smallest_need
    any_sizes = replace(search, requested=Requested(context=sizing.context, nnodes=requested.nnodes))
    other = any_sizes.best(usable, cost) if any_sizes != search else None
    half = None
    if sizing.precisions.weights == "fp32":
        in_bf16 = replace(sizing, precisions=precisions_for("bf16", "cuda"))
        half = replace(search, sizing=in_bf16).smallest_fit(usable)
    larger = None
    if not other and search.per_host < _MOST_GPUS_SUGGESTED:
        larger = Search(sizing, Requested(context=sizing.context), _MOST_GPUS_SUGGESTED).smallest_fit(usable)
    on_host = preferred_precisions(requested.dtype, settings.precision, "cpu")[-1]
    host_need = replace(sizing, kind="cpu", precisions=on_host).rank_bytes(ModelSplit(1, 1), sizing.context)
    return MemoryRefused(
        kind="cuda",
        split=search.leanest,
        ranks=1,
        weights_bytes=sizing.weights_bytes,
        precision=sizing.precisions.weights,
        context=sizing.context,
        need_bytes=need,
        usable_bytes=usable,
        free_bytes=free,
        alternatives=Alternatives(
            sizes=other.split if other else None,
            half_precision=half is not None,
            gpus=larger.replica_size if larger else None,
            gpu_free_bytes=None if other else free_bytes_for(need),
            host_free_bytes=free_bytes_for(host_need),
            host_precision=on_host.weights,
        ),
    )


def _refuse_host(sizing: Sizing, split: ModelSplit, host: Device, requested: Requested) -> MemoryRefused:
    """A model that does not fit into a host's memory, which its ranks share."""
    ranks = _host_ranks(split, requested)
    need = ranks * sizing.rank_bytes(split, sizing.context)
    return MemoryRefused(
        kind="cpu",
        split=split,
        ranks=ranks,
        weights_bytes=sizing.weights_bytes,
        precision=sizing.precisions.weights,
        context=sizing.context,
        need_bytes=need,
        usable_bytes=usable_bytes(host.free_bytes),
        free_bytes=host.free_bytes,
        alternatives=Alternatives(host_free_bytes=free_bytes_for(need), host_precision=sizing.precisions.weights),
    )
