"""Which tensor x pipeline splits are possible on some GPUs, and which is the best. Pure arithmetic, no torch.

How a split is chosen on GPUs:

1. A replica of the model gets as many GPUs as it needs for its weights, its workspace and ``COMFORTABLE``
   sequences of full context, or as many sequences as the batch size that was asked for. Where no number of
   GPUs is enough for that, all of them serve one replica, as long as one sequence fits, a shorter one if necessary.
2. Among the splits that are large enough, fewer pipeline stages win, because stages wait for each other; then
   more replicas, because they do not; then fewer GPUs.
3. For every number of GPUs, tensor parallelism is as wide as the model's heads and one host allow. Pipeline
   stages do the rest, and may be on different hosts.

A split that needs as much memory per GPU as a smaller one is never taken. It follows that more memory per GPU
never leads to more GPUs per replica.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from neoxrun.config.settings import ModelConfig
from neoxrun.planning.decision import SplitRule
from neoxrun.planning.request import Requested
from neoxrun.planning.split import ModelSplit, Sizing, tensor_sizes

COMFORTABLE = 8
MIN_CONTEXT = 256  # a model that cannot hold this many tokens is not worth starting


class BestSplit(NamedTuple):
    """The best split, the rule that decided it, and the tokens whose cache fits on every rank."""

    split: ModelSplit
    rule: SplitRule
    tokens: int


def least_tokens_to_start(context: int, requested: Requested) -> int:
    """Cached tokens without which there is no point in starting: all of a context that was asked for."""
    return context if requested.context else min(MIN_CONTEXT, context)


@dataclass(frozen=True)
class Search:
    """The splits of a model that are possible on ``requested.nnodes`` hosts of ``per_host`` GPUs each."""

    sizing: Sizing
    requested: Requested
    per_host: int

    @property
    def comfortable_batch(self) -> int:
        """Sequences of full context that make a replica comfortable."""
        return self.requested.batch_size or COMFORTABLE

    @property
    def wanted_tokens(self) -> int:
        """Cached tokens that make a replica comfortable."""
        return self.comfortable_batch * self.sizing.context

    @property
    def least_tokens(self) -> int:
        """Cached tokens without which there is no point in starting."""
        return least_tokens_to_start(self.sizing.context, self.requested)

    @property
    def smallest_need(self) -> int:
        """Bytes without which no option holds one sequence of full context on a GPU."""
        return self.sizing.rank_bytes(self.options[-1], self.sizing.context)

    @cached_property
    def options(self) -> list[ModelSplit]:
        """Splits worth considering, by size: each needs less memory per GPU than all the smaller ones."""
        by_size: dict[int, ModelSplit] = {}
        for tp in tensor_sizes(self.sizing.model):
            for pp in range(1, self.sizing.model.num_layers + 1):
                most = self.per_host * self.requested.nnodes // (tp * pp)
                split = lay_out(tp, pp, self.requested, range(most, 0, -1), self.per_host)
                if split:
                    by_size[split.replica_size] = split  # the widest tensor parallelism of a size comes last
        kept: list[ModelSplit] = []
        least = (math.inf, math.inf)
        for _, split in sorted(by_size.items()):
            needs = self.sizing.needs(split)
            need = (
                max(rank.total_bytes(self.least_tokens) for rank in needs),
                max(rank.total_bytes(self.wanted_tokens) for rank in needs),
            )
            if need[0] < least[0] and need[1] < least[1]:
                kept.append(split)
                least = need
        return kept

    def best(self, usable: int) -> BestSplit | None:
        """The best option with ``usable`` bytes on every GPU, None if nothing fits."""
        tokens = {split: self.sizing.tokens(split, usable) for split in self.options}
        roomy = [split for split in self.options if tokens[split] >= self.wanted_tokens]
        if roomy:
            split = max(roomy, key=lambda split: (-split.pp, split.replicas, -split.tp))
        elif self.options and tokens[self.options[-1]] >= self.least_tokens:
            split = self.options[-1]
        else:
            return None
        return BestSplit(split, self._rule(split, roomy), tokens[split])

    def _rule(self, split: ModelSplit, roomy: list[ModelSplit]) -> SplitRule:
        if self.requested.tp and self.requested.pp:
            return SplitRule.REQUESTED
        if not roomy:
            return SplitRule.ALL_GPUS
        if split.replica_size == 1:
            return SplitRule.ONE_DEVICE
        if split == self.options[0]:
            return SplitRule.FEWEST_GPUS
        return SplitRule.FEWER_STAGES if split.replica_size > roomy[0].replica_size else SplitRule.ENOUGH_ROOM

    def smallest_fit(self, usable: int) -> ModelSplit | None:
        """The smallest option that holds one sequence of full context in ``usable`` bytes on every GPU."""
        fitting = (split for split in self.options if self.sizing.tokens(split, usable) >= self.sizing.context)
        return next(fitting, None)

    def nearest(self, usable: int) -> ModelSplit | None:
        """The split that fits and is closest to the sizes asked for, which are not possible themselves."""
        hosts, asked = self.requested.nnodes, self.requested
        free = Requested(nnodes=hosts, world_size=asked.world_size)
        tokens = {
            split: self.sizing.tokens(split, usable)
            for tp in tensor_sizes(self.sizing.model)
            for pp in range(1, min(self.sizing.model.num_layers, hosts * self.per_host // tp) + 1)
            for replicas in range(1, hosts * self.per_host // (tp * pp) + 1)
            if (split := lay_out(tp, pp, free, [replicas], self.per_host))
        }

        def distance(split: ModelSplit) -> tuple[float, int, int]:
            pairs = ((split.tp, asked.tp), (split.pp, asked.pp), (split.replicas, asked.replicas))
            apart = sum(abs(math.log2(got / want)) for got, want in pairs if want)
            return apart, split.pp, -tokens[split]

        fitting = (split for split, count in tokens.items() if count >= self.least_tokens)
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
