"""Low-rank adapters (Hu et al., LoRA, 2021) on the linear layers of a stage that is trained: ``W x + scale B A x``.

Under tensor parallelism a column-parallel layer has the whole of ``A`` and its rows of ``B``; a row-parallel one has
its columns of ``A`` and the whole of ``B``. Each rank's gradient of the whole one is a part of a sum: it is taken of a
copy (``Collectives.copy``), so that the ranks' versions stay equal, and no activation is sent.

Shapes: ``T`` tokens, ``I`` / ``O`` input and output width of this rank's part, ``R`` rank.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from neoxrun.checkpoint.adapter import Adapter
from neoxrun.config.tensors import TensorKey, divided_dim
from neoxrun.config.training import LoraConfig
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.kernels.cpu import gelu
from neoxrun.model.layers import ColumnParallelLinear, RowParallelLinear
from neoxrun.model.training_form import Alone, Dropout, TrainingForm
from neoxrun.parallel.mesh import Mesh


class _LowRank(nn.Module):
    """What a linear layer with an adapter has besides its weight and its bias, which are frozen."""

    weight: nn.Parameter
    lora_a: nn.Parameter
    lora_b: nn.Parameter

    scale: float
    _dropout: float
    _form: TrainingForm


class ColumnParallelLora(ColumnParallelLinear, _LowRank):
    """A column-parallel layer with an adapter: ``A`` ``[R, I]`` is whole, ``B`` ``[O, R]`` is divided."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: ``[T, I]``, whole."""
        y = F.linear(x, self.weight, self.bias)
        seen = self._form.dropout.whole(x, self._dropout)
        low = F.linear(seen, self._form.collectives.copy(self.lora_a))
        y = torch.addmm(y, low, self.lora_b.t(), alpha=self.scale)
        return y if self.activation is None else gelu(y, self.activation)


class RowParallelLora(RowParallelLinear, _LowRank):
    """A row-parallel layer with an adapter: ``A`` ``[R, I]`` is divided, ``B`` ``[O, R]`` is whole."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: ``[T, I]``, divided; the result is this rank's part of a sum."""
        y = F.linear(x, self.weight, self.bias if self.adds_bias else None)
        seen = self._form.dropout.divided(x, self._dropout)
        low = F.linear(seen, self.lora_a)
        return torch.addmm(y, low, self._form.collectives.copy(self.lora_b).t(), alpha=self.scale)


def add_lora(stage: Stage, lora: LoraConfig, seed: int) -> None:
    """Give the linear layers of a stage their adapters, which change nothing yet: the only parameters to be trained.

    ``A`` is drawn as by PEFT, uniformly up to the square root of 1 / inputs, and is the same at any split; ``B`` is 0.

    Args:
        stage: in training form and loaded.
        lora: ranks, scale, dropout and which layers.
        seed: of ``A``.
    """
    assert stage.form is not None, "the stage is made to be run"
    for parameter in stage.parameters():
        parameter.requires_grad_(False)
    for key, module in _linears(stage):
        if key.name.rpartition(".")[2] not in lora.targets:
            continue
        outputs, inputs = _whole_shape(key, module.weight, stage.mesh)
        bound = 1 / math.sqrt(inputs)
        drawn = torch.empty(lora.rank, inputs).uniform_(-bound, bound, generator=_generator(seed, key))
        shares = _shares(key, stage.mesh, drawn, torch.zeros(outputs, lora.rank))
        _adapt(module, shares, lora.alpha / lora.rank, lora.dropout, stage.form)


def apply_adapter(stage: Stage, adapter: Adapter) -> None:
    """Let a single rank's stage compute an adapter next to its weights, to compare it with one that is merged."""
    form = TrainingForm(Alone(), Dropout(0, stage.device, 0))
    for key, module in _linears(stage):
        low_rank = adapter.low_rank.get(key._replace(name=f"{key.name}.weight"))
        if low_rank is not None:
            _adapt(module, _shares(key, stage.mesh, low_rank.a, low_rank.b), low_rank.scale, 0.0, form)


def _adapt(
    module: ColumnParallelLinear | RowParallelLinear,
    shares: Mapping[str, torch.Tensor],
    scale: float,
    dropout: float,
    form: TrainingForm,
) -> None:
    """Make a linear layer one with an adapter, whose parameters are to be trained."""
    module.__class__ = ColumnParallelLora if isinstance(module, ColumnParallelLinear) else RowParallelLora
    assert isinstance(module, ColumnParallelLora | RowParallelLora)
    module.scale, module._dropout, module._form = scale, dropout, form
    for part, share in shares.items():
        setattr(module, part, nn.Parameter(share.to(module.weight, copy=True).contiguous()))


def whole_lora(stage: Stage) -> dict[TensorKey, tuple[torch.Tensor, torch.Tensor]]:
    """Whole ``A`` and ``B`` of each weight that has an adapter, by the weights' keys, on the CPU of every rank.

    All tensor-parallel ranks call it.
    """
    mine = {key: (module.lora_a.detach().cpu(), module.lora_b.detach().cpu()) for key, module in _adapted(stage)}
    ranks = stage.mesh.gather_from_tp(mine)
    found = {}
    for key in mine:
        parts = zip("ab", zip(*(rank[key] for rank in ranks), strict=True), strict=True)
        a, b = (_joined(f"{key.name}.lora_{part}", shares) for part, shares in parts)
        found[key._replace(name=f"{key.name}.weight")] = a, b
    return found


def _joined(name: str, shares: tuple[torch.Tensor, ...]) -> torch.Tensor:
    dim = divided_dim(name)
    return shares[0] if dim is None else torch.cat(shares, dim)


def _shares(key: TensorKey, mesh: Mesh, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
    """This rank's parts of whole matrices, by the names of parameters."""
    found = {}
    for part, whole in (("lora_a", a), ("lora_b", b)):
        dim = divided_dim(f"{key.name}.{part}")
        found[part] = whole if dim is None else whole.chunk(mesh.tp, dim)[mesh.tp_rank]
    return found


def _whole_shape(key: TensorKey, weight: torch.Tensor, mesh: Mesh) -> tuple[int, int]:
    shape = list(weight.shape)
    dim = divided_dim(f"{key.name}.weight")
    assert dim is not None, "every linear layer is divided"
    shape[dim] *= mesh.tp
    return shape[0], shape[1]


def _generator(seed: int, key: TensorKey) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed} {key.layer} {key.name}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def _linears(stage: Stage) -> Iterator[tuple[TensorKey, ColumnParallelLinear | RowParallelLinear]]:
    """The linear layers of the transformer layers; the names of their keys are those of modules."""
    for index, layer in enumerate(stage.layers):
        for name, module in layer.named_modules():
            if isinstance(module, ColumnParallelLinear | RowParallelLinear):
                yield TensorKey(2 + stage.first_layer + index, name), module


def _adapted(stage: Stage) -> Iterator[tuple[TensorKey, ColumnParallelLora | RowParallelLora]]:
    for key, module in _linears(stage):
        if isinstance(module, ColumnParallelLora | RowParallelLora):
            yield key, module
