"""Which parameters decay: GPT-NeoX's rule (megatron/model/utils.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from neoxrun.model.norms import LayerNorm
from neoxrun.training.optimizer import build_optimizer, parameter_groups
from support.training import CONSTANT


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(4, 2)
        self.norm = LayerNorm(2, 1e-5)
        self.norm.weight, self.norm.bias = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
        self.dense = nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)


def names(network: Network, parameters: list[nn.Parameter]) -> list[str]:
    by_id = {id(parameter): name for name, parameter in network.named_parameters()}
    return [by_id[id(parameter)] for parameter in parameters]


def test_biases_and_norms_do_not_decay() -> None:
    network = Network()
    decaying, others = parameter_groups(network, 0.1)
    assert decaying["weight_decay"] == 0.1
    assert names(network, decaying["params"]) == ["word_embeddings.weight", "dense.weight"]
    assert others["weight_decay"] == 0
    assert names(network, others["params"]) == ["norm.weight", "norm.bias", "dense.bias"]


def test_without_decay_there_is_one_group() -> None:
    (group,) = parameter_groups(Network(), 0.0)
    assert len(group["params"]) == 5


def test_the_settings_are_the_optimizers() -> None:
    training = replace(CONSTANT, betas=(0.8, 0.9), epsilon=1e-5, weight_decay=0.3)
    optimizer = build_optimizer(Network(), training, fused=False)
    assert type(optimizer) is torch.optim.AdamW, "of another class DeepSpeed would refuse it"
    first, second = optimizer.param_groups
    assert (first["lr"], first["betas"], first["eps"], first["weight_decay"]) == (1e-3, (0.8, 0.9), 1e-5, 0.3)
    assert second["weight_decay"] == pytest.approx(0)
