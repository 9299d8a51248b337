"""A plan in words: why this split, and what differs from what was asked for."""

from __future__ import annotations

import math

from neoxrun.config.settings import Precision
from neoxrun.planning.cost import Estimate
from neoxrun.planning.decision import (
    BatchReduced,
    Cause,
    ContextShortened,
    CoresShared,
    Forecast,
    GpuLeftOut,
    GpusNotUsed,
    Note,
    PrecisionLowered,
    SizeChanged,
    SplitRule,
    VocabularyAssumed,
)
from neoxrun.planning.plan import Plan
from neoxrun.planning.request import Work
from neoxrun.terminal.words import counted, human_bytes


def explain_reason(plan: Plan) -> str:
    """Why the plan has this split, in one or two sentences."""
    return _gpu_reason(plan) if plan.device_kind == "cuda" else _cpu_reason(plan)


def explain_notes(plan: Plan) -> list[str]:
    """One line for each thing that differs from what the configuration or a flag asked for."""
    return [_note(plan, note) for note in plan.notes]


def _gpu_reason(plan: Plan) -> str:
    decision, forecast = plan.decision, plan.decision.forecast
    assert forecast is not None, "the time on GPUs is estimated"
    requested, chosen = decision.requested, forecast.chosen
    weights, room, gpus = weights_text(plan.weights_bytes, plan.dtype), _room(plan), plan.tp * plan.pp
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
        text = f"With {sizes_text(requested.tp, requested.pp)} as asked for: {text}"
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
    return sizes_text(estimate.split.tp, estimate.split.pp, estimate.split.replicas)


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
    text += f": {weights_text(plan.weights_bytes, plan.dtype)} and room for {_room(plan)}."
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
            return f"estimated to be faster on {gpus_text(seen, plan.nnodes)}"
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
            return f"as there {'is' if seen == 1 else 'are'} {gpus_text(seen, plan.nnodes)}"
        case _:
            return f"as there {'is' if seen == 1 else 'are'} {counted(seen, 'core')}"


def weights_text(size: int, precision: Precision) -> str:
    """``41.1 GB of fp16 weights``."""
    return f"{human_bytes(size)} of {precision} weights"


def _room(plan: Plan) -> str:
    """``20 sequences of 2048 tokens``."""
    return f"{counted(plan.max_batch, 'sequence')} of {plan.max_context} tokens"


def gpus_text(per_host: int, nnodes: int) -> str:
    """``2 GPUs on each of 3 hosts``."""
    return counted(per_host, "GPU") + (f" on each of {nnodes} hosts" if nnodes > 1 else "")


def sizes_text(tp: int | None, pp: int | None, replicas: int | None = None) -> str:
    """``tp 2 x pp 1``: the sizes that are set."""
    sizes = (("tp", tp), ("pp", pp), ("replicas", replicas))
    return " x ".join(f"{name} {size}" for name, size in sizes if size)
