"""A plan in words: why this split, what differs from what was asked for, and why there is no plan."""

from __future__ import annotations

import math

from neoxrun.config.settings import Precision
from neoxrun.errors import UsageError
from neoxrun.planning.cost import Estimate
from neoxrun.planning.decision import (
    BatchReduced,
    Cause,
    ContextShortened,
    CoresShared,
    Forecast,
    GpuLeftOut,
    GpusNotUsed,
    MemoryRefused,
    Misfit,
    Note,
    PrecisionLowered,
    Refusal,
    SizeChanged,
    SizesRefused,
    SplitRule,
    VocabularyAssumed,
)
from neoxrun.planning.plan import Plan
from neoxrun.planning.request import Work
from neoxrun.planning.split import ModelSplit
from neoxrun.terminal.words import counted, human_bytes


def explain_reason(plan: Plan) -> str:
    """Why the plan has this split, in one or two sentences."""
    return _gpu_reason(plan) if plan.device_kind == "cuda" else _cpu_reason(plan)


def explain_notes(plan: Plan) -> list[str]:
    """One line for each thing that differs from what the configuration or a flag asked for."""
    return [_note(plan, note) for note in plan.notes]


class RefusedPlanError(UsageError):
    """There is no plan.

    Args:
        words: the error for people.
        refusal: why, as a value.

    Attributes:
        refusal: why, as a value.
    """

    def __init__(self, words: UsageError, refusal: Refusal) -> None:
        super().__init__(words.message, code=words.code, hint=words.hint)
        self.refusal = refusal


def explain_refusal(refusal: Refusal) -> RefusedPlanError:
    """The error for what cannot be planned: by how much, and what would be possible."""
    if isinstance(refusal, SizesRefused):
        words = _sizes_refused(refusal)
    else:
        words = _gpus_too_small(refusal) if refusal.kind == "cuda" else _host_too_small(refusal)
    return RefusedPlanError(words, refusal)


def _gpu_reason(plan: Plan) -> str:
    decision, forecast = plan.decision, plan.decision.forecast
    assert forecast is not None, "the time on GPUs is estimated"
    requested, chosen = decision.requested, forecast.chosen
    weights, room, gpus = _weights(plan.weights_bytes, plan.dtype), _room(plan), plan.tp * plan.pp
    match decision.rule:
        case SplitRule.REQUESTED:
            text = f"The split is the one asked for: {weights} and room for {room} in each replica."
        case SplitRule.MOST_CONTEXT:
            text = f"{counted(gpus, 'GPU')} for one replica: its {weights} leave room for no more than {room}."
        case SplitRule.ONLY_ONE:
            one = "One GPU holds a whole replica"
            where = one if gpus == 1 else f"A replica is split over {gpus} GPUs, the only way possible"
            text = f"{where}: {weights} and room for {room}."
        case _:
            text = f"The fastest split for {_work(forecast.work)} is estimated to be {_named(chosen)}: {_time(chosen)}"
            if forecast.other is not None:
                text += f"; {_named(forecast.other)} would take {_time(forecast.other)}{_crowded(forecast)}"
            text += "."
    if decision.rule is not SplitRule.FASTEST:
        text += f" Estimated for {_work(forecast.work)}: {_time(chosen)}."
    if (requested.tp is None) != (requested.pp is None):
        text = f"With {_sizes(requested.tp, requested.pp)} as asked for: {text}"
    return text


def _time(estimate: Estimate) -> str:
    """``6.6 s to start and load and 8.3 s at 3,900 tokens/s``."""
    rate = two_digits(estimate.tokens_per_second)
    return f"{_seconds(estimate.loading)} to start and load and {_seconds(estimate.working)} at {rate} tokens/s"


def two_digits(number: float) -> str:
    """``3,900`` for 3,876: an estimate, without digits that it does not have."""
    digits = 1 - math.floor(math.log10(number))
    return f"{round(number, digits):,.{max(0, digits)}f}"


def _seconds(seconds: float) -> str:
    if seconds >= 10:
        return f"{seconds:,.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"


def _named(estimate: Estimate) -> str:
    """``tp 2 x pp 1 x replicas 1``."""
    return _sizes(estimate.split.tp, estimate.split.pp, estimate.split.replicas)


def _crowded(forecast: Forecast) -> str:
    """``, as it has room for 24 such sequences at a time instead of 100``, if memory is what makes a split slower."""
    other, chosen = forecast.other, forecast.chosen
    assert other is not None
    waiting = -(-forecast.work.prompts // other.split.replicas)
    if not forecast.work.new_tokens or other.sequences >= min(waiting, chosen.sequences / 1.2):
        return ""
    each = "each replica" if other.split.replicas > 1 else "it"
    return f", as {each} has room for {other.sequences} such sequences at a time instead of {chosen.sequences}"


def _work(work: Work) -> str:
    """``256 prompts of 200 tokens and 64 new tokens each``."""
    if not work.new_tokens:
        return f"scoring {_many(work.prompts, 'text')} of {counted(work.prompt_tokens, 'token')}"
    each = " each" if work.prompts > 1 else ""
    return (
        f"{_many(work.prompts, 'prompt')} of {counted(work.prompt_tokens, 'token')}"
        f" and {counted(work.new_tokens, 'new token')}{each}"
    )


def _many(count: int, noun: str) -> str:
    """``10,000 prompts``."""
    return counted(count, noun).replace(str(count), f"{count:,}", 1)


def _cpu_reason(plan: Plan) -> str:
    decision, ranks = plan.decision, plan.tp * plan.pp
    if decision.rule is SplitRule.REQUESTED:
        text = "The split is the one asked for"
    elif decision.rule is SplitRule.ONE_RANK:
        text = "One rank has all of the host to itself" if plan.replicas == 1 else "Each replica is one rank"
        text += ", as splitting gains nothing on one CPU"
    else:
        text = "The split keeps the configuration's tensor-parallel size"
        if decision.seen:
            text += f", as {counted(decision.seen, 'core')} are enough for its {ranks} ranks"
    text += f": {_weights(plan.weights_bytes, plan.dtype)} and room for {_room(plan)}."
    if decision.precision_too_large:
        text += f" In {decision.precision_too_large} it would not fit."
    return text


def _note(plan: Plan, note: Note) -> str:
    match note:
        case GpuLeftOut():
            return f"GPU {note.index} left out: only {human_bytes(note.free_bytes)} free"
        case GpusNotUsed():
            return f"{counted(note.count, 'GPU')} of {note.of} not used"
        case CoresShared():
            return f"{note.ranks} ranks share {counted(note.cores, 'core')}: expect them to be slow"
        case SizeChanged():
            return f"{note.key}: {note.configured} -> {note.planned}, {_cause(plan, note)}"
        case PrecisionLowered():
            why = "which this CPU computes natively" if note.native else "as fp32 does not fit"
            return f"precision: {note.configured} -> bf16, {why}" + ("; --dtype fp32 is exact" if note.native else "")
        case ContextShortened():
            return f"context: {note.wanted} -> {note.fits}, what fits"
        case BatchReduced():
            return f"batch size: {note.wanted} -> {note.fits}, what fits at {note.context} tokens each"
        case VocabularyAssumed():
            return f"vocabulary: {note.rows} assumed, no tokenizer file found"


def _cause(plan: Plan, note: SizeChanged) -> str:
    requested, seen = plan.decision.requested, plan.decision.seen
    match note.cause:
        case Cause.OTHER_FLAG if plan.device_kind == "cuda":
            flags = (("tp", requested.tp), ("pp", requested.pp), ("replicas", requested.replicas))
            return f"to go with {' and '.join(f'--{name} {size}' for name, size in flags if size)}"
        case Cause.OTHER_FLAG if requested.pp:
            return f"as --pp {requested.pp} is given without --tp"
        case Cause.OTHER_FLAG:
            return f"as --tp {requested.tp} is given without --pp"
        case Cause.SLOWER:
            return f"estimated to be faster on {_gpus(seen, plan.nnodes)}"
        case Cause.ONE_CPU:
            return "as stages gain nothing on one CPU"
        case Cause.STARTED_RANKS:
            return f"{counted(plan.world_size, 'rank')} started"
        case Cause.INDIVISIBLE:
            return f"as the model cannot be divided into {note.configured} equal parts"
        case Cause.MEMORY if plan.device_kind == "cuda":
            return f"as {note.configured} would leave room for fewer tokens"
        case Cause.MEMORY:
            return f"as {note.configured} ranks would need more memory"
        case Cause.DEVICES if plan.device_kind == "cuda":
            return f"as there {'is' if seen == 1 else 'are'} {_gpus(seen, plan.nnodes)}"
        case _:
            return f"as there {'is' if seen == 1 else 'are'} {counted(seen, 'core')}"


def _sizes_refused(refusal: SizesRefused) -> UsageError:
    requested, per_host, nearest = refusal.requested, refusal.per_host, refusal.nearest
    sizes = _sizes(requested.tp, requested.pp, requested.replicas) or "the model"
    here = counted(requested.nnodes, "host") if refusal.kind == "cpu" else _gpus(per_host, requested.nnodes)
    if refusal.kind == "cpu":
        hint = "Every host must get the same number of ranks, in whole tensor-parallel groups."
    elif nearest:
        hint = f"The nearest split that is possible is {_flags(nearest)}."
    else:
        hint = "With other sizes this model does not fit on these GPUs either."
    match refusal.misfit:
        case Misfit.TOO_FEW_GPUS:
            ranks = (requested.tp or 1) * (requested.pp or 1) * (requested.replicas or 1)
            message = f"{sizes} needs {counted(ranks, 'GPU')}, and there {'is' if per_host == 1 else 'are'} {here}"
        case Misfit.GROUP_TOO_WIDE:
            message = f"tp {requested.tp} needs {requested.tp} GPUs on one host, and there are {here}"
        case Misfit.UNEVEN:
            message = f"{sizes} cannot be spread evenly over {here}"
            if requested.world_size:
                message += f", where another launcher has started {counted(requested.world_size, 'rank')}"
    return UsageError(message, code="impossible_split", hint=hint)


def _gpus_too_small(refusal: MemoryRefused) -> UsageError:
    split, instead = refusal.split, refusal.alternatives
    where, each = counted(split.replica_size, "GPU"), ""
    if split.replica_size > 1:
        where, each = f"{where} as {_sizes(split.tp, split.pp)}", " on each"
    ways = []
    if instead.sizes:
        ways.append(_flags(instead.sizes))
    if instead.half_precision:
        ways.append("--dtype bf16")
    if instead.gpus:
        ways.append(f"{instead.gpus}x{refusal.free_bytes / 2**30:.4g}GB")
    if instead.gpu_free_bytes:
        ways.append(f"{split.replica_size}x{math.ceil(instead.gpu_free_bytes / 2**30)}GB")
    host = human_bytes(instead.host_free_bytes)
    ways.append(f"--device cpu with {host} of free host memory, in {instead.host_precision}")
    return UsageError(
        f"the model does not fit on {where}: {_need(refusal)}{each}, {_shortage(refusal)}",
        code="does_not_fit",
        hint=f"What would fit: {', or '.join(ways)}.",
    )


def _host_too_small(refusal: MemoryRefused) -> UsageError:
    ranks, host = counted(refusal.ranks, "rank"), human_bytes(refusal.alternatives.host_free_bytes)
    fewer = ", fewer ranks (--tp, --pp, --replicas)" if refusal.ranks > 1 else ""
    return UsageError(
        f"the model does not fit in host memory: {_need(refusal)} in {ranks}, {_shortage(refusal)}",
        code="does_not_fit",
        hint=f"What would fit: {host} of free host memory{fewer}, or a smaller model.",
    )


def _need(refusal: MemoryRefused) -> str:
    return (
        f"{_weights(refusal.weights_bytes, refusal.precision)}, workspace and the cache of one sequence"
        f" of {refusal.context} tokens need {human_bytes(refusal.need_bytes)}"
    )


def _shortage(refusal: MemoryRefused) -> str:
    return (
        f"and {human_bytes(refusal.usable_bytes)} of {human_bytes(refusal.free_bytes)} free can be used:"
        f" {human_bytes(refusal.need_bytes - refusal.usable_bytes)} too little"
    )


def _weights(size: int, precision: Precision) -> str:
    """``41.1 GB of fp16 weights``."""
    return f"{human_bytes(size)} of {precision} weights"


def _room(plan: Plan) -> str:
    """``20 sequences of 2048 tokens``."""
    return f"{counted(plan.max_batch, 'sequence')} of {plan.max_context} tokens"


def _gpus(per_host: int, nnodes: int) -> str:
    """``2 GPUs on each of 3 hosts``."""
    return counted(per_host, "GPU") + (f" on each of {nnodes} hosts" if nnodes > 1 else "")


def _sizes(tp: int | None, pp: int | None, replicas: int | None = None) -> str:
    """``tp 2 x pp 1``: the sizes that are set."""
    sizes = (("tp", tp), ("pp", pp), ("replicas", replicas))
    return " x ".join(f"{name} {size}" for name, size in sizes if size)


def _flags(split: ModelSplit) -> str:
    return f"--tp {split.tp} --pp {split.pp} --replicas {split.replicas}"
