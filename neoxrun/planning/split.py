"""A split of the model over ranks, and what it needs. Pure arithmetic, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from neoxrun.config.precisions import DTYPE_BYTES, DeviceKind, Precisions
from neoxrun.config.settings import ModelConfig
from neoxrun.planning.memory import Paging, RankNeed, model_parameters, paging_of, stage_needs


@dataclass(frozen=True)
class ModelSplit:
    """Tensor-parallel size x pipeline stages x replicas of the model."""

    tp: int
    pp: int
    replicas: int = 1

    @property
    def replica_size(self) -> int:
        """Ranks of one replica."""
        return self.tp * self.pp

    @property
    def world_size(self) -> int:
        """All ranks."""
        return self.replica_size * self.replicas


@dataclass(frozen=True)
class Sizing:
    """What a split of a model would need, in given number formats, on a kind of device, for a context."""

    model: ModelConfig
    vocab_size: int
    precisions: Precisions
    kind: DeviceKind
    context: int

    @property
    def weights_bytes(self) -> int:
        """The parameters of the whole model, each counted once."""
        return model_parameters(self.model, self.vocab_size) * DTYPE_BYTES[self.precisions.weights]

    def needs(self, split: ModelSplit) -> tuple[RankNeed, ...]:
        """What one rank of every stage holds."""
        return stage_needs(
            self.model,
            self.vocab_size,
            tensor=split.tp,
            pipeline=split.pp,
            precisions=self.precisions,
            kind=self.kind,
            context=self.context,
        )

    @property
    def _paging(self) -> Paging:
        """On the CPU a page has as many positions as a sequence needs, so that any number of tokens fills it."""
        return paging_of(self.kind, 1)

    def positions(self, sequences: int, length: int) -> int:
        """Positions of a cache for ``sequences`` of ``length`` tokens each."""
        return self._paging.positions(sequences * self._paging.pages_of(length))

    def sequences(self, tokens: int, length: int) -> int:
        """Sequences of ``length`` tokens in a cache that has room for one of ``tokens``."""
        return tokens // (self._paging.pages_of(length) * self._paging.size)

    def rank_bytes(self, split: ModelSplit, length: int) -> int:
        """What the fullest rank holds, with the cache of one sequence of ``length`` tokens."""
        return max(need.total_bytes(self.positions(1, length)) for need in self.needs(split))

    def tokens(self, split: ModelSplit, usable: int) -> int:
        """Tokens of the longest sequence whose cache fits on every rank; negative where the rest does not fit."""
        return min(
            self._paging.size
            * self._paging.pages_in(usable - need.weights_bytes - need.workspace_bytes, need.kv_bytes_per_token)
            for need in self.needs(split)
        )


def tensor_sizes(model: ModelConfig) -> list[int]:
    """The tensor-parallel sizes that divide heads and MLP evenly, ascending."""
    common = math.gcd(model.num_attention_heads, model.intermediate_size)
    return [size for size in range(1, common + 1) if common % size == 0]
