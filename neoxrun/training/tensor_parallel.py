"""Tensor parallelism in training: megatron-core's autograd collectives and its vocabulary-parallel cross entropy.

megatron-core takes two seconds to import, and a single rank does without it, so that it is imported when it is needed.

Shapes: ``P`` tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from neoxrun.model.training_form import Alone, Collectives
from neoxrun.parallel.mesh import Mesh


class MegatronCollectives:
    """The collectives of a tensor-parallel group.

    Args:
        group: the ranks.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._mappings, self._group = _megatron("mappings"), group

    def reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' ``x``, in place; its gradient is the gradient of each."""
        total: torch.Tensor = self._mappings.reduce_from_tensor_model_parallel_region(x, self._group)
        return total

    def copy(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` itself; its gradient is the sum of all ranks' gradients."""
        copied: torch.Tensor = self._mappings.copy_to_tensor_model_parallel_region(x, self._group)
        return copied


@cache
def _megatron(module: str) -> Any:
    """A module of megatron-core's tensor parallelism."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says which faster libraries of NVIDIA's it does without
        from megatron.core.tensor_parallel import cross_entropy, mappings
    return {"cross_entropy": cross_entropy, "mappings": mappings}[module]


def collectives_of(mesh: Mesh) -> Collectives:
    """The collectives of a rank's tensor-parallel group."""
    return Alone() if mesh.tp == 1 or mesh.tp_group is None else MegatronCollectives(mesh.tp_group)


def token_losses(logits: torch.Tensor, targets: torch.Tensor, mesh: Mesh, vocab_size: int) -> torch.Tensor:
    """The cross entropy of each token over the whole (padded) vocabulary, fp32 ``[P]``, the same on all ranks.

    Args:
        logits: ``[P, V / tp]`` of this rank's rows of the vocabulary, in any type.
        targets: int64 ``[P]``.
        mesh: this rank's coordinates.
        vocab_size: ``V``; rows beyond it, which make the ranks' shares equal, do not count.
    """
    if mesh.tp == 1 or mesh.tp_group is None:
        return F.cross_entropy(logits.float(), targets, reduction="none")
    losses: torch.Tensor = _VocabParallelLoss.apply(logits, targets, mesh, vocab_size)  # type: ignore[no-untyped-call]
    return losses


class _VocabParallelLoss(torch.autograd.Function):
    """megatron-core's steps, with the group that they are given: its own function takes the group from globals."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, mesh: Mesh, vocab_size: int) -> torch.Tensor:
        steps = _megatron("cross_entropy").VocabParallelCrossEntropy
        start = mesh.tp_rank * logits.shape[1]
        # Computed in place, so not in the network's own tensor.
        wide = logits.detach().to(torch.float32, copy=True)
        wide[:, max(0, vocab_size - start) :] = torch.finfo(torch.float32).min
        wide, highest = steps.calculate_logits_max(wide)
        dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=mesh.tp_group)
        elsewhere, own, predicted, total, exponentials = steps.calculate_predicted_logits(
            wide, targets, highest, start, start + logits.shape[1]
        )
        dist.all_reduce(predicted, group=mesh.tp_group)
        dist.all_reduce(total, group=mesh.tp_group)
        losses: torch.Tensor
        softmax, losses = steps.calculate_cross_entropy_loss(exponentials, predicted, total)
        ctx.save_for_backward(softmax, elsewhere, own)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        steps = _megatron("cross_entropy").VocabParallelCrossEntropy
        softmax, elsewhere, own = ctx.saved_tensors
        rows, tokens, update, gradient = steps.prepare_gradient_calculation_operands(softmax, elsewhere)
        gradient = steps.calculate_gradients(rows, tokens, own, update, gradient, gradients[0])
        return gradient, None, None, None
