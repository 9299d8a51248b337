"""Which tensor x pipeline x replicas splits are possible on some GPUs, and which is the best. Arithmetic, no torch.

How a split is chosen on GPUs:

1. A split must hold the weights, the workspace and one sequence of full context. Where none does, the one that holds
   the longest sequence serves.
2. Of the others, the one that takes the least time for the work at hand by the estimate of ``cost``; of those that
   take the same, the one with the fewest GPUs.

Tensor parallelism stays within one host; pipeline stages may be on different hosts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from neoxrun.config.settings import ModelConfig
from neoxrun.planning.cost import CostModel, Estimate
from neoxrun.planning.decision import SplitRule
from neoxrun.planning.request import Requested
from neoxrun.planning.split import ModelSplit, Sizing, tensor_sizes

MIN_CONTEXT = 256  # a model that cannot hold this many tokens is not worth starting


class BestSplit(NamedTuple):
    """The best split.

    Attributes:
        split: the sizes.
        rule: what decided it.
        tokens: of the longest sequence that its cache holds.
        estimate: how long it takes.
        other: the fastest of another tensor-parallel size, or else of another number of stages.
    """

    split: ModelSplit
    rule: SplitRule
    tokens: int
    estimate: Estimate
    other: Estimate | None


def least_tokens_to_start(context: int, requested: Requested) -> int:
    """Cached tokens without which there is no point in starting: all of a context that was asked for."""
    return context if requested.context else min(MIN_CONTEXT, context)


@dataclass(frozen=True)
class Search:
    """The splits of a model that are possible on ``requested.nnodes`` hosts of ``per_host`` GPUs each."""

    sizing: Sizing
    requested: Requested
    per_host: int

    @cached_property
    def splits(self) -> list[ModelSplit]:
        """Every possible split, the smallest replicas first."""
        gpus = self.per_host * self.requested.nnodes
        found = [
            split
            for tp in tensor_sizes(self.sizing.model)
            for pp in range(1, min(self.sizing.model.num_layers, gpus // tp) + 1)
            for replicas in range(1, gpus // (tp * pp) + 1)
            if (split := lay_out(tp, pp, self.requested, [replicas], self.per_host))
        ]
        return sorted(found, key=lambda split: (split.replica_size, split.pp))

    @property
    def leanest(self) -> ModelSplit:
        """The split that needs the least memory on each GPU for one sequence of full context."""
        return min(self.splits, key=lambda split: self.sizing.rank_bytes(split, self.sizing.context))

    @property
    def smallest_need(self) -> int:
        """Bytes without which no split holds one sequence of full context on a GPU."""
        return self.sizing.rank_bytes(self.leanest, self.sizing.context)

    def best(self, usable: int, cost: CostModel) -> BestSplit | None:
        """The best split with ``usable`` bytes on every GPU, None if nothing fits."""
        tokens = {split: self.sizing.tokens(split, usable) for split in self.splits}
        most = max(tokens.values(), default=-1)
        if most < least_tokens_to_start(self.sizing.context, self.requested):
            return None
        wanted = min(most, self.sizing.context)
        cost = replace(cost, work=cost.work.within(wanted))
        estimates = [cost.estimate(split, count) for split, count in tokens.items() if count >= wanted]
        # Rounded, so that not the order of additions decides.
        chosen = min(estimates, key=lambda one: (float(f"{one.seconds:.9g}"), one.split.world_size, one.split.pp))
        others = [one for one in estimates if (one.split.tp, one.split.pp) != (chosen.split.tp, chosen.split.pp)]
        # Stages seldom come close: what people weigh against each other is tensor parallelism and replicas.
        other = min(others, key=lambda one: (one.split.pp != chosen.split.pp, one.seconds), default=None)
        if wanted < self.sizing.context:
            rule = SplitRule.MOST_CONTEXT
        elif self.requested.tp and self.requested.pp:
            rule = SplitRule.REQUESTED
        else:
            rule = SplitRule.FASTEST if len(estimates) > 1 else SplitRule.ONLY_ONE
        return BestSplit(chosen.split, rule, tokens[chosen.split], chosen, other)

    def smallest_fit(self, usable: int) -> ModelSplit | None:
        """The split with the smallest replicas that hold one sequence of full context in ``usable`` bytes of a GPU."""
        fitting = (split for split in self.splits if self.sizing.tokens(split, usable) >= self.sizing.context)
        return next(fitting, None)

    def nearest(self, usable: int) -> ModelSplit | None:
        """The split that fits and is closest to the sizes asked for, which are not possible themselves."""
        asked = self.requested
        free = Search(self.sizing, Requested(nnodes=asked.nnodes, world_size=asked.world_size), self.per_host)
        tokens = {split: self.sizing.tokens(split, usable) for split in free.splits}

        def distance(split: ModelSplit) -> tuple[float, int, int]:
            pairs = ((split.tp, asked.tp), (split.pp, asked.pp), (split.replicas, asked.replicas))
            apart = sum(abs(math.log2(got / want)) for got, want in pairs if want)
            return apart, split.pp, -tokens[split]

        least = least_tokens_to_start(self.sizing.context, asked)
        fitting = (split for split, count in tokens.items() if count >= least)
        return min(fitting, key=distance, default=None)


def lay_out(tp: int, pp: int, requested: Requested, replicas: Iterable[int], per_host: int | None) -> ModelSplit | None:
    """``tp x pp`` with the first of ``replicas`` that keeps to ``requested`` and can be spread over the hosts.

    Every host gets equally many ranks, at most ``per_host``, and no tensor-parallel group crosses hosts.
    """
    if requested.tp not in (None, tp) or requested.pp not in (None, pp):
        return None
    for count in replicas:
        split = ModelSplit(tp, pp, count)
        ranks, odd = divmod(split.world_size, requested.nnodes)
        if odd or ranks % tp or (per_host is not None and ranks > per_host):
            continue
        if requested.replicas in (None, count) and requested.world_size in (None, split.world_size):
            return split
    return None


def lay_out_cpu(model: ModelConfig, tp: int, pp: int, requested: Requested) -> ModelSplit | None:
    """``tp x pp`` on CPU hosts, with as few replicas as possible; any number of ranks can share a host."""
    if tp not in tensor_sizes(model) or pp > model.num_layers:
        return None
    most = max(requested.nnodes * tp, requested.replicas or 1, requested.world_size or 1)
    return lay_out(tp, pp, requested, range(1, most + 1), None)
