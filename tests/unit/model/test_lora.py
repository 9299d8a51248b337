"""Adapters on the linear layers of a stage: how they begin, what is trained, and each rank's part of them."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import pytest
import torch
from torch import Tensor

from neoxrun.config.precisions import precisions_for
from neoxrun.config.tensors import TensorKey, divided_dim
from neoxrun.config.training import LoraConfig
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.layers import ColumnParallelLinear, RowParallelLinear
from neoxrun.model.lora import add_lora, whole_lora
from neoxrun.model.training_form import Alone, Dropout, TrainingForm
from neoxrun.parallel.mesh import Mesh
from support.checkpoints import tiny
from support.lora import fill_lora

CPU = torch.device("cpu")
CONFIG = tiny(num_layers=2)
LORA = LoraConfig(rank=3, alpha=6.0)


def adapted(lora: LoraConfig = LORA, tp: int = 1, rank: int = 0, seed: int = 1) -> Stage:
    mesh = Mesh(tp, 1, 1, rank, 0, 0, CPU)
    form = TrainingForm(Alone(), Dropout(0, CPU, rank))
    stage = Stage(CONFIG, mesh, 20, CPU, precisions_for("fp32", "cpu"), form)
    stage.randomize(0)
    add_lora(stage, lora, seed)
    return stage


def parts(stage: Stage) -> dict[TensorKey, Tensor]:
    return {key: tensor.detach() for key, tensor in stage.keyed_parameters().items() if ".lora_" in key.name}


def test_only_the_adapter_is_trained() -> None:
    stage = adapted()
    trained = {key for key, parameter in stage.keyed_parameters().items() if parameter.requires_grad}
    assert trained == parts(stage).keys()
    assert len(trained) == 2 * 4 * CONFIG.num_layers


def test_it_begins_as_in_peft() -> None:
    """A is uniform up to 1 / sqrt(inputs), B is 0; every layer and every seed has its own A."""
    first = parts(adapted())
    drawn = [tensor for key, tensor in first.items() if key.name.endswith("lora_a")]
    for tensor in drawn:
        bound = 1 / math.sqrt(tensor.shape[1])
        assert 0.8 * bound < tensor.abs().max() <= bound
        assert abs(tensor.mean()) < 0.4 * bound
    assert len({float(tensor[0, 0]) for tensor in drawn}) == len(drawn)
    assert not any(tensor.any() for key, tensor in first.items() if key.name.endswith("lora_b"))
    other = parts(adapted(seed=2))
    assert not any(torch.equal(first[key], other[key]) for key in first if key.name.endswith("lora_a"))


@pytest.mark.parametrize("tp", [2, 4])
def test_the_parts_of_the_ranks_make_the_whole(tp: int) -> None:
    whole = parts(adapted())
    ranks = [parts(adapted(tp=tp, rank=rank)) for rank in range(tp)]
    for key, tensor in whole.items():
        dim = divided_dim(key.name)
        column = key.name.split(".")[1] in ("query_key_value", "dense_h_to_4h")
        assert dim == ((None, 0) if column else (1, None))[key.name.endswith("lora_b")]
        shares = [rank[key] for rank in ranks]
        if dim is None:
            assert all(torch.equal(share, tensor) for share in shares)
        else:
            torch.testing.assert_close(torch.cat(shares, dim), tensor, atol=0, rtol=0)


def test_an_adapter_is_filled_in_place_and_read_again() -> None:
    """An optimizer that holds the parameters already trains the adapter that was filled in."""
    stage = adapted()
    before = stage.keyed_parameters()
    generator = torch.Generator().manual_seed(0)
    matrices = {
        key: (torch.randn(a.shape, generator=generator), torch.randn(b.shape, generator=generator))
        for key, (a, b) in whole_lora(stage).items()
    }
    fill_lora(stage, matrices)
    assert all(before[key] is parameter for key, parameter in stage.keyed_parameters().items())
    for key, (a, b) in whole_lora(stage).items():
        assert torch.equal(a, matrices[key][0])
        assert torch.equal(b, matrices[key][1])


def test_other_layers_stay_as_they_are() -> None:
    stage = adapted(dataclasses.replace(LORA, targets=("dense", "dense_h_to_4h")))
    names = {key.name for key in parts(stage)}
    assert names == {f"{name}.lora_{part}" for name in ("attention.dense", "mlp.dense_h_to_4h") for part in "ab"}


@pytest.mark.parametrize("name", ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h"])
def test_a_layer_computes_the_formula(name: str) -> None:
    """``activation(W x + b + scale B A x)``: the activation comes after the adapter."""
    stage = adapted()
    module = cast("ColumnParallelLinear | RowParallelLinear", stage.layers[0].get_submodule(name))
    a, b = (module.get_parameter(part) for part in ("lora_a", "lora_b"))
    torch.nn.init.normal_(b, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, module.weight.shape[1], generator=torch.Generator().manual_seed(1))
    assert module.bias is not None
    right = x @ (module.weight + LORA.alpha / LORA.rank * b @ a).t() + module.bias
    if "4h" in name:
        right = torch.nn.functional.gelu(right, approximate="tanh")
    torch.testing.assert_close(module(x), right)


def test_dropout_is_of_the_adapters_input_and_only_in_training() -> None:
    stage = adapted(dataclasses.replace(LORA, dropout=0.5))
    assert stage.form is not None
    module = cast(RowParallelLinear, stage.layers[0].get_submodule("attention.dense"))
    x = torch.randn(4, CONFIG.hidden_size)
    stage.form.dropout.active = True
    base = module(x)
    torch.testing.assert_close(base, torch.nn.functional.linear(x, module.weight, module.bias))  # B is 0
    torch.nn.init.normal_(module.get_parameter("lora_b"))
    dropped = [module(x) for _ in range(2)]
    assert not torch.equal(*dropped), "each draw is another one"
    stage.form.dropout.active = False
    assert torch.equal(module(x), module(x))
