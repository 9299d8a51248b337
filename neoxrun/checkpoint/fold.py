"""Folding norms that drifted apart between tensor-parallel ranks into the layers that read them.

GPT-NeoX's ranks train their norms separately. Source rank ``r`` computes ``W_r (scale_r * n + shift_r) + b_r`` of the
normalized input ``n``, which is ``(W_r diag(scale_r)) n + (b_r + W_r shift_r)``: with these rows and biases the norm
has no parameters, and so the rows of all ranks can be joined and divided in any way. That is exact but for rounding:
the products are computed in fp32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neoxrun.checkpoint.adapter import LowRank
from neoxrun.checkpoint.merge import ShardSlice
from neoxrun.checkpoint.source import Shard
from neoxrun.config.settings import ModelConfig

_NUMBERS_AT_ONCE = 2**22  # of a weight in fp32: 17 MB, whatever the size of the layer


class RankNorms(NamedTuple):
    """The source ranks' versions of a norm, fp32 ``[ranks, H]`` on the device of the weights; rmsnorm has no shifts."""

    scales: Tensor
    shifts: Tensor | None


def norm_before(linear: str, config: ModelConfig) -> str | None:
    """The norm whose output a linear layer alone reads, so that it can be folded into that layer; None: no norm.

    A head that is tied to the word embedding is not such a layer, since its rows are looked up, too.
    """
    second = "input_layernorm" if config.gpt_j_residual and config.gpt_j_tied else "post_attention_layernorm"
    return {
        "attention.query_key_value": "input_layernorm",
        "mlp.dense_h_to_4h": second,
        "final_linear": "norm",
    }.get(linear)


def foldable_norms(shards: Sequence[Shard], config: ModelConfig, device: torch.device) -> dict[str, RankNorms]:
    """The norms of a layer that differ between the source ranks and can be folded, by their names.

    One that holds NaN or infinity is left to the loader, which names it: folded, it would be in every weight.

    Args:
        shards: each source rank's tensors of the layer.
        config: the network.
        device: where the weights will be.
    """
    found = {}
    for norm in ("input_layernorm", "post_attention_layernorm", "norm"):
        if f"{norm}.bias" not in shards[0] and f"{norm}.scale" not in shards[0]:
            continue
        if norm == "norm" and config.tie_embeddings:
            continue
        parts = ("scale",) if config.norm == "rmsnorm" else ("weight", "bias")
        versions = [torch.stack([shard[f"{norm}.{part}"].tensor.float() for shard in shards]) for part in parts]
        differ = any(not torch.equal(version[:1].expand_as(version), version) for version in versions)
        if differ and all(bool(version.isfinite().all()) for version in versions):
            scales, shifts = versions[0], versions[1] if len(versions) > 1 else None
            found[norm] = RankNorms(scales.to(device), None if shifts is None else shifts.to(device))
    return found


def fold_weight(
    target: Tensor,
    slices: Sequence[ShardSlice],
    shards: Sequence[Tensor],
    norms: RankNorms,
    low_rank: LowRank | None = None,
) -> Tensor:
    """Fill a rank's rows of a linear layer's weight with those of the source ranks, each times its rank's scales.

    Args:
        target: ``[rows, H]``; rows that no slice covers (vocabulary padding) become zeros.
        slices: which rows of which shard go where.
        shards: the source ranks' weights.
        norms: of the norm before the layer.
        low_rank: what an adapter adds to the weight of all ranks, after the norms have been folded in.

    Returns:
        What the shifts add to the layer's bias, fp32 ``[rows]`` on the device of ``target``: zeros for rmsnorm.
    """
    added = torch.zeros(len(target), dtype=torch.float32, device=target.device)
    step = max(1, _NUMBERS_AT_ONCE // target.shape[1])
    filled = 0
    for part in slices:
        for row in range(0, part.length, step):
            count = min(step, part.length - row)
            rows = shards[part.shard].narrow(0, part.start + row, count).to(target.device).float()
            at = slice(part.target + row, part.target + row + count)
            folded = rows * norms.scales[part.shard]
            if low_rank is not None:
                folded = low_rank.add_to(folded, part.shard * len(shards[part.shard]) + part.start + row, 0)
            target[at] = folded
            if norms.shifts is not None:
                torch.mv(rows, norms.shifts[part.shard], out=added[at])
        filled += part.length
    target[filled:] = 0
    return added
