"""How the tensor-parallel shards of a checkpoint become a target rank's tensors. Pure arithmetic."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from neoxrun.config.settings import ModelConfig
from neoxrun.parallel.partition import vocab_shard


class Rule(Enum):
    """How the shards of a tensor that is not divided become the whole tensor."""

    SUM = "sum"
    MEAN = "mean"
    ONE = "take one"


def rule_of(name: str, config: ModelConfig) -> Rule:
    """The rule of an undivided tensor, which every source rank holds in full.

    With the parallel residual every rank adds its own bias before the one all-reduce: the model's bias is their sum.
    Otherwise the bias is added once, after the reduce, and all ranks hold the same one. Each rank trains its own norms
    and learned positions, and these drift apart: the mean is the best single one.
    """
    if name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias"):
        return Rule.SUM if config.gpt_j_residual else Rule.ONE
    return Rule.MEAN


class Piece(NamedTuple):
    """``length`` rows (or columns) that go from ``start`` in shard ``shard`` to ``at`` in the target."""

    shard: int
    start: int
    at: int
    length: int


def pieces(size: int, source_tp: int, tp_size: int, tp_rank: int) -> list[Piece]:
    """Where the rows (or columns) of target rank ``tp_rank`` of ``tp_size`` lie in ``source_tp`` equal
    shards.

    Args:
        size: rows (or columns) of the whole tensor.
        source_tp: shards that hold it; divides ``size``.
        tp_size: target ranks; shares are equal, the last ones may reach beyond ``size`` (vocabulary padding).
        tp_rank: the target rank.

    Returns:
        The pieces in order. Together they cover the target's share, up to padding.
    """
    held = size // source_tp
    share = vocab_shard(size, tp_size, tp_rank)
    stop = min(share.stop, size)
    result = []
    for shard in range(source_tp):
        first, last = max(share.start, shard * held), min(stop, (shard + 1) * held)
        if first < last:
            result.append(Piece(shard, first - shard * held, first - share.start, last - first))
    return result


def contributors(rule: Rule, source_tp: int, tp_size: int, tp_rank: int) -> range:
    """The shards from which target rank ``tp_rank`` makes its copy of a tensor that is not divided.

    At the checkpoint's own tensor-parallel size each rank keeps its own, bit for bit, as GPT-NeoX does. At
    another size, the bias that ranks add up is given to rank 0; the others get none and hold zeros.
    """
    if tp_size == source_tp:
        return range(tp_rank, tp_rank + 1)
    if rule is Rule.ONE:
        return range(1)
    if rule is Rule.SUM and tp_rank > 0:
        return range(0)
    return range(source_tp)
