"""Which tensor x pipeline splits are possible on some devices, and which to take. Pure arithmetic, no torch.

How a split is chosen on GPUs:

1. A copy of the model gets as many GPUs as it needs for its weights, its workspace and ``COMFORTABLE``
   sequences of full context, or as many sequences as the batch size that was asked for. Where no number of
   GPUs gives that, all of them serve one copy, as long as one sequence fits, if need be a shorter one.
2. Among the splits that are large enough, fewer pipeline stages win, because stages wait for each other; then
   more replicas, because they do not; then fewer GPUs.
3. For every number of GPUs, tensor parallelism is as wide as the model's heads and one host allow. Pipeline
   stages do the rest, and may lie on different hosts.

A split that needs as much memory per GPU as a smaller one is never taken. It follows that more memory per GPU
never leads to more GPUs per copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.errors import UsageError
from neoxrun.planning.memory import DeviceKind, RankNeed, stage_needs

COMFORTABLE = 8
MIN_CONTEXT = 256  # a model that cannot hold this many tokens is not worth starting


MARGIN = 0.05  # of the free memory, left alone for fragmentation and for what others come to use


@dataclass(frozen=True)
class Device:
    """One GPU, or the host.

    Attributes:
        kind: ``cuda`` or ``cpu``.
        index: number of the GPU among the visible ones, in PCI bus order (``CUDA_DEVICE_ORDER=PCI_BUS_ID``).
        name: what its maker calls it.
        total_bytes: its memory.
        free_bytes: what of it nobody uses.
        cores: cores this process may use (``cpu`` only); 0 where that is not known.
    """

    kind: DeviceKind
    index: int
    name: str
    total_bytes: int
    free_bytes: int
    cores: int = 0


@dataclass(frozen=True)
class Requested:
    """What flags and the environment force; None leaves the choice to the plan.

    Attributes:
        tp: tensor-parallel size.
        pp: pipeline stages.
        replicas: copies of the model.
        dtype: number format of weights and cache.
        batch_size: sequences that one copy works on at a time, at most.
        context: longest sequence, prompt and answer together.
        nnodes: hosts, all with the same devices.
        world_size: number of ranks that an outer launcher (torchrun, Slurm) has started already.
    """

    tp: int | None = None
    pp: int | None = None
    replicas: int | None = None
    dtype: Precision | None = None
    batch_size: int | None = None
    context: int | None = None
    nnodes: int = 1
    world_size: int | None = None


@dataclass(frozen=True)
class Split:
    """Tensor-parallel size x pipeline stages x copies of the model."""

    tp: int
    pp: int
    replicas: int = 1

    @property
    def copy(self) -> int:
        """Ranks of one copy."""
        return self.tp * self.pp

    @property
    def world(self) -> int:
        """All ranks."""
        return self.copy * self.replicas

    def __str__(self) -> str:
        return f"tp {self.tp} x pp {self.pp} x replicas {self.replicas}"


@dataclass(frozen=True)
class Case:
    """A model to be placed: in which number format, on which kind of device, for which context."""

    model: ModelConfig
    vocab_size: int
    dtype: Precision
    kind: DeviceKind
    context: int

    def needs(self, split: Split) -> tuple[RankNeed, ...]:
        """What one rank of every stage holds."""
        return stage_needs(
            self.model,
            self.vocab_size,
            tensor=split.tp,
            pipeline=split.pp,
            dtype=self.dtype,
            kind=self.kind,
            context=self.context,
        )

    def rank_bytes(self, split: Split, tokens: int) -> int:
        """What the fullest rank holds, with a cache of ``tokens`` tokens."""
        return max(need.total_bytes(tokens) for need in self.needs(split))

    def tokens(self, split: Split, usable: int) -> int:
        """Tokens whose cache fits on every rank beside the rest; negative when the rest does not fit."""
        return min(
            (usable - need.weights_bytes - need.workspace_bytes) // need.kv_bytes_per_token
            for need in self.needs(split)
        )


@dataclass(frozen=True)
class Search:
    """The splits that are possible for ``case`` on ``requested.nnodes`` hosts of ``per_host`` GPUs each."""

    case: Case
    requested: Requested
    per_host: int

    @property
    def wanted_tokens(self) -> int:
        """Cached tokens that make a copy comfortable."""
        return (self.requested.batch_size or COMFORTABLE) * self.case.context

    @property
    def least_tokens(self) -> int:
        """Cached tokens without which there is no point in starting."""
        return self.case.context if self.requested.context else min(MIN_CONTEXT, self.case.context)

    @property
    def smallest_need(self) -> int:
        """Bytes without which no option holds one sequence of full context on a GPU."""
        return self.case.rank_bytes(self.options[-1], self.case.context)

    @cached_property
    def options(self) -> list[Split]:
        """Splits worth considering, by size: each needs less memory per GPU than all the smaller ones."""
        by_size: dict[int, Split] = {}
        for tp in tensor_sizes(self.case.model):
            for pp in range(1, self.case.model.num_layers + 1):
                most = self.per_host * self.requested.nnodes // (tp * pp)
                split = lay_out(tp, pp, self.requested, range(most, 0, -1), self.per_host)
                if split:
                    by_size[split.copy] = split  # the widest tensor parallelism of a size comes last
        kept: list[Split] = []
        least = (math.inf, math.inf)
        for _, split in sorted(by_size.items()):
            need = (
                self.case.rank_bytes(split, self.least_tokens),
                self.case.rank_bytes(split, self.wanted_tokens),
            )
            if need[0] < least[0] and need[1] < least[1]:
                kept.append(split)
                least = need
        return kept

    def roomy(self, usable: int) -> list[Split]:
        """The options that are comfortable with ``usable`` bytes on every GPU."""
        return [split for split in self.options if self.case.tokens(split, usable) >= self.wanted_tokens]

    def choose(self, usable: int) -> Split | None:
        """The best option with ``usable`` bytes on every GPU, None when nothing fits."""
        roomy = self.roomy(usable)
        if roomy:
            return max(roomy, key=lambda split: (-split.pp, split.replicas, -split.tp))
        if self.options and self.case.tokens(self.options[-1], usable) >= self.least_tokens:
            return self.options[-1]
        return None

    def nearest(self, usable: int) -> Split | None:
        """The split that fits and is closest to the sizes asked for, which are not possible themselves."""
        hosts, asked = self.requested.nnodes, self.requested
        free = Requested(nnodes=hosts, world_size=asked.world_size)
        splits = [
            split
            for tp in tensor_sizes(self.case.model)
            for pp in range(1, min(self.case.model.num_layers, hosts * self.per_host // tp) + 1)
            for replicas in range(1, hosts * self.per_host // (tp * pp) + 1)
            if (split := lay_out(tp, pp, free, [replicas], self.per_host))
            and self.case.tokens(split, usable) >= self.least_tokens
        ]

        def distance(split: Split) -> tuple[float, int, int]:
            pairs = ((split.tp, asked.tp), (split.pp, asked.pp), (split.replicas, asked.replicas))
            apart = sum(abs(math.log2(got / want)) for got, want in pairs if want)
            return apart, split.pp, -self.case.tokens(split, usable)

        return min(splits, key=distance, default=None)


def usable_bytes(free_bytes: int) -> int:
    """What of a device's free memory a plan may fill."""
    return int(free_bytes * (1 - MARGIN))


def tensor_sizes(model: ModelConfig) -> list[int]:
    """The tensor-parallel sizes that divide heads and MLP evenly, ascending."""
    common = math.gcd(model.num_attention_heads, model.intermediate_size)
    return [size for size in range(1, common + 1) if common % size == 0]


def lay_out(tp: int, pp: int, requested: Requested, replicas: Iterable[int], per_host: int | None) -> Split | None:
    """``tp x pp`` with the first of ``replicas`` that keeps to ``requested`` and can be laid on the hosts.

    Every host gets equally many ranks, at most ``per_host``, and no tensor-parallel group crosses hosts.
    """
    if requested.tp not in (None, tp) or requested.pp not in (None, pp):
        return None
    for count in replicas:
        split = Split(tp, pp, count)
        ranks, odd = divmod(split.world, requested.nnodes)
        if odd or ranks % tp or (per_host is not None and ranks > per_host):
            continue
        if requested.replicas in (None, count) and requested.world_size in (None, split.world):
            return split
    return None


def lay_out_cpu(model: ModelConfig, tp: int, pp: int, requested: Requested) -> Split | None:
    """``tp x pp`` on CPU hosts, with as few replicas as possible; any number of ranks can share a host."""
    if tp not in tensor_sizes(model) or pp > model.num_layers:
        return None
    most = max(requested.nnodes * tp, requested.replicas or 1, requested.world_size or 1)
    return lay_out(tp, pp, requested, range(1, most + 1), None)


def check_request(model: ModelConfig, requested: Requested) -> None:
    """Refuse what no devices could change.

    Raises:
        UsageError: a size below 1, a tensor-parallel size that does not divide the model, more stages than
            layers, a context longer than the model's.
    """
    for name in ("tp", "pp", "replicas", "batch_size", "context", "nnodes"):
        value = getattr(requested, name)
        if value is not None and value < 1:
            raise UsageError(
                f"--{name.replace('_', '-')} {value} is not possible",
                code="invalid_value",
                hint="It must be at least 1.",
            )
    possible = tensor_sizes(model)
    if requested.tp is not None and requested.tp not in possible:
        heads, inner = model.num_attention_heads, model.intermediate_size
        what = f"{heads} attention heads" if heads % requested.tp else f"an MLP {inner} wide"
        raise UsageError(
            f"{what} cannot be divided into --tp {requested.tp} equal parts",
            code="impossible_split",
            hint=f"--tp can be {', '.join(map(str, possible))} for this model.",
        )
    if requested.pp is not None and requested.pp > model.num_layers:
        raise UsageError(
            f"--pp {requested.pp} is more stages than the model has layers ({model.num_layers})",
            code="impossible_split",
            hint=f"--pp can be at most {model.num_layers}.",
        )
    if requested.context is not None and requested.context > model.max_context:
        raise UsageError(
            f"a context of {requested.context} tokens is longer than the model's {model.max_context}",
            code="invalid_value",
            hint=f"It can be at most {model.max_context}.",
        )
