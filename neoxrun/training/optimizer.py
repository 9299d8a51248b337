"""AdamW (Loshchilov and Hutter, 2019) over the parameters that are trained, with GPT-NeoX's groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from neoxrun.config.training import TrainingConfig
from neoxrun.model.norms import LayerNorm, RMSNorm


def build_optimizer(module: nn.Module, training: TrainingConfig, *, fused: bool) -> torch.optim.AdamW:
    """The optimizer of a module: torch's own class, which DeepSpeed knows and for which nothing is compiled.

    GPT-NeoX's ``Adam`` is AdamW, too: the weights decay apart from the gradients.

    Args:
        module: its trained parameters.
        training: the settings.
        fused: one kernel for all parameters.
    """
    return torch.optim.AdamW(
        parameter_groups(module, training.weight_decay),
        lr=training.schedule.lr,
        betas=training.betas,
        eps=training.epsilon,
        weight_decay=training.weight_decay,
        fused=fused,
    )


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters that decay, and those that do not: biases and norms. The embedding and the head do."""
    norms = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, LayerNorm | RMSNorm)
        for parameter in part.parameters()
    }
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            exempt = not weight_decay or id(parameter) in norms or name.endswith("bias")
            (others if exempt else decaying).append(parameter)
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
