"""A split of the model over ranks, and what it needs. Pure arithmetic, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from neoxrun.config.precisions import DTYPE_BYTES, DeviceKind, Precisions
from neoxrun.config.settings import ModelConfig
from neoxrun.planning.memory import RankNeed, model_parameters, stage_needs


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

    def rank_bytes(self, split: ModelSplit, tokens: int) -> int:
        """What the fullest rank holds, with a cache of ``tokens`` tokens."""
        return max(need.total_bytes(tokens) for need in self.needs(split))

    def tokens(self, split: ModelSplit, usable: int) -> int:
        """Tokens whose cache fits on every rank along with the rest; negative when the rest does not fit."""
        return min(
            (usable - need.weights_bytes - need.workspace_bytes) // need.kv_bytes_per_token
            for need in self.needs(split)
        )


def tensor_sizes(model: ModelConfig) -> list[int]:
    """The tensor-parallel sizes that divide heads and MLP evenly, ascending."""
    common = math.gcd(model.num_attention_heads, model.intermediate_size)
    return [size for size in range(1, common + 1) if common % size == 0]
