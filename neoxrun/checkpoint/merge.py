"""Which parts of a checkpoint's tensor-parallel shards make up a target rank's tensors. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from neoxrun.config.settings import Merge, ModelConfig
from neoxrun.parallel.partition import vocab_shard

ADAPTER: Final = "adapter"
"""In place of a tensor's name: the adapter, which may be of a model whose norms were merged otherwise."""


class Rule(Enum):
    """How the source ranks' versions of an undivided tensor become one tensor."""

    SUM = "sum"
    MEAN = "mean"
    ONE = "take one"


def rule_of(name: str, config: ModelConfig) -> Rule:
    """The rule for an undivided tensor, which every source rank holds in full.

    With the parallel residual each rank adds a separate bias before the all-reduce: the model's bias is their sum.
    Otherwise the bias is added once, after the all-reduce, and is the same on all ranks. The ranks train their norms
    and learned positions separately, and these drift apart: where they cannot be folded (``checkpoint.fold``), their
    mean is the best single version.
    """
    if name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias"):
        return Rule.SUM if config.gpt_j_residual else Rule.ONE
    return Rule.MEAN


class ShardSlice(NamedTuple):
    """``length`` rows (or columns), from ``start`` on in shard ``shard`` and from ``target`` on in the target."""

    shard: int
    start: int
    target: int
    length: int


def shard_slices(size: int, source_tp: int, tp_size: int, tp_rank: int) -> list[ShardSlice]:
    """The slices of ``source_tp`` equal shards that hold the rows (or columns) of target rank ``tp_rank``.

    Args:
        size: rows (or columns) of the whole tensor.
        source_tp: number of shards; divides ``size``.
        tp_size: number of target ranks. Their shares are equal; the last may end beyond ``size`` (vocabulary padding).
        tp_rank: the target rank.

    Returns:
        The slices in order. Together they cover the target's share without its padding.
    """
    held = size // source_tp
    share = vocab_shard(size, tp_size, tp_rank)
    stop = min(share.stop, size)
    result = []
    for shard in range(source_tp):
        first, last = max(share.start, shard * held), min(stop, (shard + 1) * held)
        if first < last:
            result.append(ShardSlice(shard, first - shard * held, first - share.start, last - first))
    return result


def contributing_shards(rule: Rule, source_tp: int, tp_size: int, tp_rank: int, *, one_version: bool = False) -> range:
    """The shards from which target rank ``tp_rank`` makes its version of an undivided tensor.

    At the checkpoint's tensor-parallel size each rank keeps the version of the same source rank, bit for bit, as in
    GPT-NeoX, unless there shall be ``one_version``. At another size, rank 0 gets the sum of the biases that ranks add
    up; the other ranks hold zeros.
    """
    if tp_size == source_tp and not one_version:
        return range(tp_rank, tp_rank + 1)
    if rule is Rule.ONE:
        return range(1)
    if rule is Rule.SUM and tp_rank > 0:
        return range(0)
    return range(source_tp)


def describe_approximations(names: Iterable[str], source_tp: int, merge: Merge, *, native: bool = True) -> list[str]:
    """What to tell people of tensors whose versions differ and had to become one, in one sentence for each kind.

    Args:
        names: of the tensors that ``load_weights`` could not keep exactly.
        source_tp: the checkpoint's tensor-parallel size.
        merge: what became of norms: they were folded where that is exact, or averaged.
        native: at its own size the ranks keep their own tensors; not so with an adapter.
    """
    kinds = {_kind(name) for name in names}
    ranks = f"the checkpoint's {source_tp} tensor-parallel ranks"
    cost = "which changes the results a little"
    if native:
        cost += f"; --tp {source_tp} computes them as they are"
    texts = [_of_adapter(ranks, merge)] if ADAPTER in kinds else []
    if "norm" in kinds and merge == "fold":
        texts.append(
            f"the final norms of {ranks} differ and are averaged, as the head is tied to the word embedding, {cost}"
        )
    elif "norm" in kinds:
        texts.append(f"the norms of {ranks} differ and are averaged, {cost}")
    if "positions" in kinds:
        texts.append(f"the position embeddings of {ranks} differ and are averaged, {cost}")
    if "bias" in kinds:
        texts.append(
            f"the output biases of {ranks} differ, although all ranks should add the same: those of the first are "
            "used, which changes the results a little"
        )
    return texts


def _of_adapter(ranks: str, merge: Merge) -> str:
    if merge == "fold":
        return (
            f"the norms of {ranks} differ, and are folded into the weights that the adapter is added to, as `neoxrun "
            "convert` writes them: an adapter of a model with averaged norms, as in other conversions, needs --merge "
            "average"
        )
    return "the adapter was trained with norms that are folded into the weights: leave out --merge average"


def _kind(name: str) -> str:
    if name == ADAPTER:
        return name
    if name.startswith("position_embeddings"):
        return "positions"
    return "norm" if "norm" in name else "bias"
