"""Why there is no plan, in words: by how much, and what would be possible."""

from __future__ import annotations

import math

from neoxrun.errors import UsageError
from neoxrun.planning.decision import MemoryRefused, Misfit, Refusal, SizesRefused
from neoxrun.planning.explain import gpus_text, sizes_text, weights_text
from neoxrun.planning.split import ModelSplit
from neoxrun.terminal.words import counted, human_bytes


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


def _sizes_refused(refusal: SizesRefused) -> UsageError:
    requested, per_host, nearest = refusal.requested, refusal.per_host, refusal.nearest
    sizes = sizes_text(requested.tp, requested.pp, requested.replicas) or "the model"
    here = counted(requested.nnodes, "host") if refusal.kind == "cpu" else gpus_text(per_host, requested.nnodes)
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
        where, each = f"{where} as {sizes_text(split.tp, split.pp)}", " on each"
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
        f"{weights_text(refusal.weights_bytes, refusal.precision)}, workspace and the cache of one sequence"
        f" of {refusal.context} tokens need {human_bytes(refusal.need_bytes)}"
    )


def _shortage(refusal: MemoryRefused) -> str:
    return (
        f"and {human_bytes(refusal.usable_bytes)} of {human_bytes(refusal.free_bytes)} free can be used:"
        f" {human_bytes(refusal.need_bytes - refusal.usable_bytes)} too little"
    )


def _flags(split: ModelSplit) -> str:
    return f"--tp {split.tp} --pp {split.pp} --replicas {split.replicas}"
