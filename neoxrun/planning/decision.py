"""What planning decides, as values: why a split was chosen, what differs from the request, or why there is no plan.

Facts only; ``explain`` puts them into words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from neoxrun.config.precisions import DeviceKind
from neoxrun.config.settings import Precision
from neoxrun.planning.cost import Estimate, Rate
from neoxrun.planning.hardware import Speed
from neoxrun.planning.request import Requested, Work
from neoxrun.planning.split import ModelSplit


class SplitRule(Enum):
    """Which rule decided the split of a replica."""

    REQUESTED = auto()
    """Flags give the sizes: both on GPUs, at least one on the CPU."""
    FASTEST = auto()
    """On GPUs: the one that is estimated to take the least time, of several that hold a sequence of full context."""
    ONLY_ONE = auto()
    """On GPUs: no other split that the flags allow holds a sequence of full context."""
    MOST_CONTEXT = auto()
    """On GPUs: no split holds a sequence of full context, and the one that holds the longest serves."""
    ONE_RANK = auto()
    """On the CPU: one rank has it to itself."""
    CONFIGURED = auto()
    """On the CPU: the configuration's tensor-parallel size."""


class Cause(Enum):
    """Why a size in the configuration differs from the plan's."""

    DEVICES = auto()
    """The configuration's size needs more GPUs or cores than there are."""
    SLOWER = auto()
    """On GPUs: the configuration's size would take longer for the work, or is of no use for it."""
    ONE_CPU = auto()
    """On the CPU: pipeline stages of one host would only wait for each other."""
    OTHER_FLAG = auto()
    """Other flags leave no room for it; on the CPU, a size is 1 if a flag gives only the other."""
    STARTED_RANKS = auto()
    """The configuration's size does not go with the number of ranks that were started."""
    INDIVISIBLE = auto()
    """The configuration's size does not divide the model."""
    MEMORY = auto()
    """The configuration's size would need more memory."""


@dataclass(frozen=True)
class Forecast:
    """The estimate of a plan's time, and what it rests on.

    Attributes:
        work: what is to be done.
        speed: of each GPU, as listed.
        listed: the GPUs are of a listed kind; else the speed is that of a common one with as much memory.
        rates: how fast answers are written by so many sequences; empty where that is not known.
        chosen: the estimate.
        other: that of the fastest split of another tensor-parallel size, or else of another number of stages; None
            where there is no other.
    """

    work: Work
    speed: Speed
    listed: bool
    rates: tuple[Rate, ...]
    chosen: Estimate
    other: Estimate | None


@dataclass(frozen=True)
class Decision:
    """Why the split is as it is.

    Attributes:
        rule: the rule that decided it.
        requested: what flags and the environment forced.
        seen: GPUs of each host that were seen, or the CPU's cores (0: not known).
        precision_too_large: the preferred number format, if the model fits only in a smaller one.
        forecast: how long it takes; None on the CPU.
    """

    rule: SplitRule
    requested: Requested
    seen: int
    precision_too_large: Precision | None = None
    forecast: Forecast | None = None


@dataclass(frozen=True)
class GpuLeftOut:
    """A GPU with too little free memory."""

    index: int
    free_bytes: int


@dataclass(frozen=True)
class GpusNotUsed:
    """GPUs for which the split has no use."""

    count: int
    of: int


@dataclass(frozen=True)
class CoresShared:
    """More ranks than cores."""

    ranks: int
    cores: int


@dataclass(frozen=True)
class SizeChanged:
    """A size in the configuration, under its key, that differs from the plan's and that no flag sets."""

    key: str
    configured: int
    planned: int
    cause: Cause


@dataclass(frozen=True)
class PrecisionLowered:
    """On the CPU: bf16, which no flag asks for.

    Attributes:
        configured: the configuration's number format.
        native: the CPU has instructions for bf16; else fp32 does not fit.
    """

    configured: Precision
    native: bool


@dataclass(frozen=True)
class ContextShortened:
    """The context that was wanted does not fit."""

    wanted: int
    fits: int


@dataclass(frozen=True)
class BatchReduced:
    """The batch size that was asked for does not fit, at ``context`` tokens each."""

    wanted: int
    fits: int
    context: int


@dataclass(frozen=True)
class VocabularyAssumed:
    """There is no tokenizer file, so the size of the vocabulary is a guess."""

    rows: int


Note = (
    GpuLeftOut
    | GpusNotUsed
    | CoresShared
    | SizeChanged
    | PrecisionLowered
    | ContextShortened
    | BatchReduced
    | VocabularyAssumed
)


class Misfit(Enum):
    """Why sizes cannot be spread over devices, however much memory these have."""

    TOO_FEW_GPUS = auto()
    """There are fewer GPUs than ranks."""
    GROUP_TOO_WIDE = auto()
    """A tensor-parallel group does not fit on one host."""
    UNEVEN = auto()
    """Hosts, or the ranks that were started, would not get equally many whole tensor-parallel groups."""


@dataclass(frozen=True)
class SizesRefused:
    """Sizes that cannot be spread over the devices.

    Attributes:
        misfit: why.
        requested: the sizes.
        kind: of the devices.
        per_host: GPUs of each host; 1 on the CPU.
        nearest: the closest sizes that are possible; None on the CPU, or if no sizes are possible.
    """

    misfit: Misfit
    requested: Requested
    kind: DeviceKind
    per_host: int
    nearest: ModelSplit | None


@dataclass(frozen=True)
class Alternatives:
    """What would fit instead of a model that does not; every field is one way.

    Attributes:
        sizes: on the same GPUs, other sizes than those asked for.
        half_precision: bf16 instead of fp32 on the same GPUs.
        gpus: how many such GPUs of one host.
        gpu_free_bytes: as many GPUs as now, each with that much free memory.
        host_free_bytes: a host with that much free memory.
        host_precision: the number format in which it would run on the host.
    """

    host_free_bytes: int
    host_precision: Precision
    sizes: ModelSplit | None = None
    half_precision: bool = False
    gpus: int | None = None
    gpu_free_bytes: int | None = None


@dataclass(frozen=True)
class MemoryRefused:
    """A model that does not fit into the devices' memory.

    Attributes:
        kind: of the devices.
        split: the one that needs the least memory on each device.
        ranks: how many of them share the device: all of a host's on the CPU, 1 on a GPU.
        weights_bytes, precision: of the whole model.
        context: tokens of the one sequence that should fit.
        need_bytes: what the fullest device would have to hold.
        usable_bytes, free_bytes: how much of the free memory of a device may be filled.
        alternatives: what would fit instead.
    """

    kind: DeviceKind
    split: ModelSplit
    ranks: int
    weights_bytes: int
    precision: Precision
    context: int
    need_bytes: int
    usable_bytes: int
    free_bytes: int
    alternatives: Alternatives


Refusal = SizesRefused | MemoryRefused
