"""Norms that drifted apart, in files: what is folded, and what of the final norm has no place there.

The head has no bias in GPT-NeoX's and Hugging Face's files. Folded, it would need one: ``W_r shift_r`` for the rows of
source rank ``r``. So the final norm keeps the mean of ``shift_r / scale_r``, which the folded rows
``W_r diag(scale_r)`` turn into most of it; what remains is a constant that is missing from each token's logit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import torch
from torch import Tensor

from neoxrun.checkpoint.fold import foldable_norms, norm_before
from neoxrun.checkpoint.source import LayerSource, Shard
from neoxrun.config.settings import Merge, ModelConfig
from neoxrun.config.tensors import TensorKey
from neoxrun.conversion.numbers import largest

_CPU: Final = torch.device("cpu")
_ROWS: Final = 1 << 10


def merge_for_files(config: ModelConfig, asked: Merge) -> Merge:
    """How drifted norms are merged into files: folded shifts need the biases of the layers that read them."""
    needs = config.norm == "layernorm" and not (config.use_bias_in_attn_linear and config.use_bias_in_mlp)
    return "average" if needs else asked


class Folding:
    """Which norms of a checkpoint are folded, found layer by layer in order.

    Args:
        config: the network.
        folds: whether any are: the target has another tensor-parallel size than the source, and is to be folded.
    """

    def __init__(self, config: ModelConfig, *, folds: bool) -> None:
        self._config, self._folds = config, folds
        self._norms: Collection[str] = ()

    def enter(self, layer: int, shards: list[Shard]) -> None:
        """Go to a layer; the head's norm is that of the layer before."""
        if self._folds and layer != self._config.num_layers + 4:
            self._norms = foldable_norms(shards, self._config, _CPU).keys()

    def concerns(self, name: str) -> bool:
        """Whether a tensor of the layer is a folded norm's, or one that it is folded into."""
        module = name.rpartition(".")[0]
        return module in self._norms or norm_before(module, self._config) in self._norms


class FinalNorm:
    """The shift that a folded final norm keeps in files, and what remains.

    Args:
        shift: fp32 ``[H]``.
        left_out: in how many of its numbers a rank has no part, because the number format does not hold it.

    Attributes:
        remains: the most that is missing from the logit of any token, once ``note_head`` and ``note_bias`` were told.
    """

    def __init__(self, shift: Tensor, left_out: int) -> None:
        self.shift, self.left_out = shift, left_out
        self.remains = 0.0
        self._given: Tensor | None = None

    def note_head(self, weight: Tensor) -> None:
        """The head's rows as they are written."""
        shift = self.shift.to(weight.dtype).float()
        self._given = torch.cat([torch.mv(rows.float(), shift) for rows in torch.split(weight, _ROWS)])

    def note_bias(self, bias: Tensor) -> None:
        """The bias that these rows would need with a shift of 0, fp32."""
        assert self._given is not None, "the head's weight comes first"
        self.remains = max(self.remains, largest(bias.float() - self._given))


def find_final_norm(source: LayerSource, dtypes: Mapping[TensorKey, torch.dtype], *, folds: bool) -> FinalNorm | None:
    """The final norm of a checkpoint, if it is folded and has shifts.

    Args:
        source: the checkpoint.
        dtypes: number format of each tensor in the files to be written.
        folds: whether norms that drifted apart are folded.
    """
    config = source.config
    if not folds or config.norm != "layernorm":
        return None
    shards = source.read_layer(config.num_layers + 3)
    norms = foldable_norms(shards, config, _CPU).get("norm")
    if norms is None or norms.shifts is None:
        return None
    # A scale of 0 turns any shift into nothing, so that any number serves there.
    scales = torch.where(norms.scales == 0, torch.ones_like(norms.scales), norms.scales)
    shifts = norms.shifts / scales
    # A rank whose scale is nearly 0 has no say; what activations are added to must leave them room in the format.
    fits = shifts.abs() <= torch.finfo(dtypes[norm_bias(config)]).max / 2
    mean = torch.where(fits, shifts, 0).sum(0) / fits.sum(0).clamp_min(1)
    return FinalNorm(mean, int((~fits).any(0).sum()))


def norm_bias(config: ModelConfig) -> TensorKey:
    """The key of the final norm's shift."""
    return TensorKey(config.num_layers + 3, "norm.bias")
