"""From devices to a split: on GPUs by the rules of ``placement``, on the CPU by the configuration.

On the CPU all ranks share the memory and cores of one host, so that splitting gains nothing: the
configuration's tensor-parallel size is kept where every rank has a core (the checkpoint is then computed
rank by rank, as it was trained), else there is one rank. Pipeline stages would only wait for each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from neoxrun.config.settings import Precision, Settings
from neoxrun.planning.explain import cpu_reason, gpu_reason, gpus_refused, gpus_too_small, host_too_small, uneven
from neoxrun.planning.placement import Case, Device, Requested, Search, Split, lay_out_cpu, usable_bytes
from neoxrun.terminal.words import counted, human_bytes


@dataclass(frozen=True)
class Choice:
    """A split, the devices of one host that it runs on, the bytes that each rank may use, and why.

    ``why`` makes the reason from the batch and the context that fit.
    """

    case: Case
    split: Split
    devices: Sequence[Device]
    usable: int
    seen: str
    why: Callable[[int, int], str]
    notes: tuple[str, ...] = ()


def choose_gpus(settings: Settings, devices: Sequence[Device], requested: Requested, vocab_size: int) -> Choice:
    """Place on the GPUs, each taken for as small as the smallest; those too small are left out.

    Raises:
        UsageError: what is asked for cannot be laid on them, or the model does not fit.
    """
    context = requested.context or settings.model.max_context
    case = Case(settings.model, vocab_size, requested.dtype or settings.precision, "cuda", context)
    freest = sorted(devices, key=lambda device: -device.free_bytes)
    refused = gpus_refused(Search(case, requested, len(freest)), usable_bytes(freest[-1].free_bytes))
    if refused:
        raise refused
    searches: list[tuple[Search, int]] = []
    for least in sorted({device.free_bytes for device in devices}):
        search = Search(case, requested, sum(device.free_bytes >= least for device in devices))
        if search.options:
            searches.append((search, least))
    found = [(search, split, least) for search, least in searches if (split := search.choose(usable_bytes(least)))]
    if not found:
        search, least = min(searches, key=lambda pair: pair[0].smallest_need / max(1, pair[1]))
        raise gpus_too_small(search, least, requested.dtype or "bf16")

    def merit(choice: tuple[Search, Split, int]) -> tuple[int, int, int]:
        search, split, least = choice
        return min(case.tokens(split, usable_bytes(least)), search.wanted_tokens), -split.pp, split.replicas

    search, split, least = max(found, key=merit)
    kept = freest[: search.per_host]
    used = kept[: split.world // requested.nnodes]
    seen = counted(len(devices), "GPU")
    if requested.nnodes > 1:
        seen += f" on each of {requested.nnodes} hosts"
    notes = [
        f"GPU {device.index} left out: only {human_bytes(device.free_bytes)} free"
        for device in freest[search.per_host :]
    ]
    if len(used) < len(kept):
        notes.append(f"{counted(len(kept) - len(used), 'GPU')} of {len(kept)} not used")
    return Choice(
        case,
        split,
        sorted(used, key=lambda device: device.index),
        usable_bytes(used[-1].free_bytes),
        seen,
        partial(gpu_reason, search, split, usable_bytes(least)),
        tuple(notes),
    )


def choose_cpu(settings: Settings, host: Device, requested: Requested, vocab_size: int) -> Choice:
    """Place on one host's memory, in fp32 where it fits and else in bf16.

    Raises:
        UsageError: what is asked for cannot be laid on the hosts, or the model does not fit.
    """
    model = settings.model
    if requested.tp or requested.pp:
        sizes = [(requested.tp or 1, requested.pp or 1)]
    elif host.cores and model.model_parallel_size > host.cores:
        sizes = [(1, 1)]
    else:
        sizes = [(model.model_parallel_size, 1), (1, 1)]
    splits = [split for tp, pp in sizes if (split := lay_out_cpu(model, tp, pp, requested))]
    if not splits:
        raise uneven(requested, counted(requested.nnodes, "host"))
    context = requested.context or model.max_context
    dtypes: tuple[Precision, ...] = (requested.dtype,) if requested.dtype else ("fp32", "bf16")
    cases = [Case(model, vocab_size, dtype, "cpu", context) for dtype in dtypes]
    for tokens in (context, Search(cases[0], requested, 1).least_tokens):
        for case, split in itertools.product(cases, splits):
            ranks = split.world // requested.nnodes
            usable = usable_bytes(host.free_bytes) // ranks
            if case.tokens(split, usable) < tokens:
                continue
            notes = []
            if 0 < host.cores < ranks:
                notes.append(f"{ranks} ranks share {counted(host.cores, 'core')}: expect them to be slow")
            share = replace(host, free_bytes=host.free_bytes // ranks)
            return Choice(
                case,
                split,
                [share] * ranks,
                usable,
                counted(host.cores, "core") if host.cores else "1 host",
                partial(cpu_reason, case, split, requested, host.cores),
                tuple(notes),
            )
    split = splits[-1]
    ranks = split.world // requested.nnodes
    raise host_too_small(cases[-1], split, ranks, host.free_bytes)
