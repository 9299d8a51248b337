"""The words of a plan: why this split, what differs from what was asked for, and why something cannot be."""

from __future__ import annotations

import math
from dataclasses import replace

from neoxrun.config.settings import DTYPE_BYTES, ModelConfig, Precision
from neoxrun.errors import UsageError
from neoxrun.planning.memory import model_parameters
from neoxrun.planning.placement import MARGIN, Case, Requested, Search, Split, usable_bytes
from neoxrun.terminal.words import counted, human_bytes

_MOST_GPUS_SUGGESTED = 64


def weights_text(case: Case) -> str:
    """``41.1 GB of fp16 weights``."""
    size = model_parameters(case.model, case.vocab_size) * DTYPE_BYTES[case.dtype]
    return f"{human_bytes(size)} of {case.dtype} weights"


def gpu_reason(search: Search, split: Split, usable: int, batch: int, context: int) -> str:
    """Why ``split`` on GPUs of ``usable`` bytes, where ``batch`` sequences of ``context`` tokens fit."""
    case, requested = search.case, search.requested
    weights, room = weights_text(case), f"{counted(batch, 'sequence')} of {context} tokens"
    roomy = search.roomy(usable)
    if requested.tp and requested.pp:
        text = f"The split is the one asked for: {weights} and room for {room} in a copy."
    elif split not in roomy:
        text = f"{counted(split.copy, 'GPU')} for one copy: its {weights} leave room for no more than {room}."
    elif split.copy == 1:
        text = f"One GPU holds a whole copy: {weights} and room for {room}."
    elif split.copy > roomy[0].copy:
        text = (
            f"A copy is split over {split.copy} GPUs: fewer would hold its {weights} too, but only as"
            " pipeline stages, which wait for each other."
        )
    else:
        wanted = counted(search.wanted_tokens // case.context, "sequence")
        text = (
            f"A copy is split over {split.copy} GPUs: on fewer, its {weights} would leave no room for"
            f" {wanted} of {case.context} tokens."
        )
    if (requested.tp is None) != (requested.pp is None):
        text = f"With {_asked_for(replace(requested, replicas=None))} as asked for: {text}"
    if split.replicas > 1:
        text += f" The {split.world} GPUs hold {split.replicas} such copies, which work side by side."
    return text


def size_notes(model: ModelConfig, split: Split, requested: Requested, seen: str) -> list[str]:
    """One note for each size of the configuration that the plan changes of its own accord."""
    sizes = (
        ("pipe_parallel_size", model.pipe_parallel_size, split.pp, requested.pp),
        ("model_parallel_size", model.model_parallel_size, split.tp, requested.tp),
    )
    return [
        f"{key}: {named} -> {planned}, {seen} seen"
        for key, named, planned, forced in sizes
        if forced is None and max(1, named) != planned
    ]


def cpu_reason(case: Case, split: Split, requested: Requested, cores: int, batch: int, context: int) -> str:
    """Why ``split`` on a host with ``cores`` cores (0: not known)."""
    if requested.tp or requested.pp:
        text = "The split is the one asked for"
    elif split.copy == 1:
        text = "One rank has all of the host to itself, as splitting gains nothing on one CPU"
    else:
        text = "The split keeps the configuration's tensor-parallel size"
        if cores:
            text += f", as {counted(cores, 'core')} are enough for its {split.copy} ranks"
    text += f": {weights_text(case)} and room for {counted(batch, 'sequence')} of {context} tokens."
    if case.dtype == "bf16" and requested.dtype is None:
        text += " In fp32 it would not fit."
    return text


def uneven(requested: Requested, here: str, hint: str | None = None) -> UsageError:
    """The error for sizes that cannot be laid on the hosts."""
    message = f"{_asked_for(requested)} cannot be laid evenly on {here}"
    if requested.world_size:
        message += f", where another launcher has started {counted(requested.world_size, 'rank')}"
    return UsageError(
        message, code="impossible_split", hint=hint or "Every host must get as many ranks as the others, tp at a time."
    )


def _asked_for(requested: Requested) -> str:
    sizes = (("tp", requested.tp), ("pp", requested.pp), ("replicas", requested.replicas))
    return " x ".join(f"{name} {size}" for name, size in sizes if size) or "the model"


def gpus_refused(search: Search, usable: int) -> UsageError | None:
    """The error for sizes that cannot be laid on these GPUs, whatever their memory; None if they can."""
    if search.options:
        return None
    asked, per_host = search.requested, search.per_host
    here = counted(per_host, "GPU") + (f" on each of {asked.nnodes} hosts" if asked.nnodes > 1 else "")
    nearest = search.nearest(usable)
    if nearest:
        flags = f"--tp {nearest.tp} --pp {nearest.pp} --replicas {nearest.replicas}"
        hint = f"The nearest that is possible is {flags}."
    else:
        hint = "With other sizes this model does not fit on these GPUs either."
    ranks = (asked.tp or 1) * (asked.pp or 1) * (asked.replicas or 1)
    if ranks > per_host * asked.nnodes:
        seen = f"there {'is' if per_host == 1 else 'are'} {here}"
        return UsageError(
            f"{_asked_for(asked)} needs {counted(ranks, 'GPU')}, and {seen}", code="impossible_split", hint=hint
        )
    if asked.tp and asked.tp > per_host:
        return UsageError(
            f"tp {asked.tp} needs {asked.tp} GPUs on one host, and there are {here}", code="impossible_split", hint=hint
        )
    return uneven(asked, here, hint)


def _free_for(need: int) -> int:
    """Free memory of which ``need`` bytes may be used."""
    return math.ceil(need / (1 - MARGIN))


def gpus_too_small(search: Search, free: int, host_dtype: Precision) -> UsageError:
    """The error for a model that does not fit, with the nearest that would.

    Args:
        search: the possible splits.
        free: bytes that are free on each GPU.
        host_dtype: number format in which the model would run on the CPU.
    """
    case, split = search.case, search.options[-1]
    need, usable = search.smallest_need, usable_bytes(free)
    where = counted(split.copy, "GPU") + (f" as tp {split.tp} x pp {split.pp}" if split.copy > 1 else "")
    message = (
        f"the model does not fit on {where}: {weights_text(case)}, workspace and the cache of one sequence"
        f" of {case.context} tokens need {human_bytes(need)}{' on each' if split.copy > 1 else ''}, and"
        f" {human_bytes(usable)} of {human_bytes(free)} free can be used:"
        f" {human_bytes(need - usable)} too little"
    )
    whole = Requested(context=case.context)
    ways = []
    here = Search(case, replace(whole, nnodes=search.requested.nnodes), search.per_host).choose(usable)
    if here:
        ways.append(f"--tp {here.tp} --pp {here.pp} --replicas {here.replicas}")
    half = Search(replace(case, dtype="bf16"), replace(search.requested, context=case.context), search.per_host).choose(
        usable
    )
    if case.dtype == "fp32" and half:
        ways.append("--dtype bf16")
    if not here:
        counts = range(search.per_host + 1, _MOST_GPUS_SUGGESTED + 1)
        more = next((count for count in counts if Search(case, whole, count).choose(usable)), None)
        if more:
            ways.append(f"{more}x{free / 1e9:.4g}GB")
        ways.append(f"{split.copy}x{math.ceil(_free_for(need) / 1e9)}GB")
    host = replace(case, kind="cpu", dtype=host_dtype).rank_bytes(Split(1, 1), case.context)
    ways.append(f"--device cpu with {human_bytes(_free_for(host))} of free host memory, in {host_dtype}")
    return UsageError(message, code="does_not_fit", hint=f"What would do: {', or '.join(ways)}.")


def host_too_small(case: Case, split: Split, ranks: int, free: int) -> UsageError:
    """The error for a model that does not fit into a host's memory, which its ``ranks`` share."""
    need, usable = ranks * case.rank_bytes(split, case.context), usable_bytes(free)
    return UsageError(
        f"the model does not fit in host memory: {weights_text(case)}, workspace and the cache of one"
        f" sequence of {case.context} tokens need {human_bytes(need)} in {counted(ranks, 'rank')}, and"
        f" {human_bytes(usable)} of {human_bytes(free)} free can be used:"
        f" {human_bytes(need - usable)} too little",
        code="does_not_fit",
        hint=f"What would do: {human_bytes(_free_for(need))} of free host memory, or a smaller model.",
    )
