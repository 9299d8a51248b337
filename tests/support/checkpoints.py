"""Small checkpoints for tests, and loading all ranks of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.checkpoint.load import load_weights, read_vocab_rows
from neoxrun.config.settings import Merge, ModelConfig
from neoxrun.config.tensors import TensorKey, local_shape, parameters
from neoxrun.errors import CheckpointError
from neoxrun.parallel.partition import stage_layers

TINY = ModelConfig(
    num_layers=2,
    hidden_size=16,
    num_attention_heads=4,
    intermediate_size=64,
    seq_length=8,
    max_position_embeddings=8,
    pos_emb="rotary",
    rotary_pct=0.5,
    gpt_j_residual=True,
    tie_embeddings=False,
    gelu="tanh",
)
LAYER = "global_step1/layer_02-model_01-model_states.pt"
REFERENCE_CHECKPOINTS = [
    "tp1",
    "tp1_full_rotary_erf",
    "tp1_sequential_residual",
    "tp2_legacy_20b",
    "tp2_native",
    "tp2_sequential",
    "upstream_tp2_pp2",
]
"""The folders of tests/parity/fixtures, whose README.md says what each is."""


def tiny(**changes: Any) -> ModelConfig:
    return dataclasses.replace(TINY, **changes)


def fixture_config(folder: Path) -> ModelConfig:
    """The few keys in which the reference checkpoints differ; reading configurations is tested elsewhere."""
    keys = yaml.safe_load((folder / "config.yml").read_text())
    return tiny(
        num_layers=3,
        hidden_size=64,
        intermediate_size=256,
        seq_length=64,
        max_position_embeddings=64,
        gpt_j_residual=keys["gpt_j_residual"],
        rotary_pct=keys["rotary_pct"],
        model_parallel_size=keys["model_parallel_size"],
    )


def random_model(
    config: ModelConfig, rows: int, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[TensorKey, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(parameter.shape, generator=generator).to(dtype)
        for key, parameter in parameters(config, rows).items()
    }


def stage_layer_numbers(config: ModelConfig, pp: int, stage: int) -> set[int]:
    numbers = {layer + 2 for layer in stage_layers(config.num_layers, pp, stage)}
    if stage == 0:
        numbers.add(0)
    if stage == pp - 1:
        numbers |= {config.num_layers + 3, config.num_layers + 4}
    return numbers


def load_rank(
    checkpoint: Checkpoint,
    config: ModelConfig,
    tp: int,
    rank: int,
    *,
    pp: int = 1,
    dtype: torch.dtype = torch.float32,
    merge: Merge = "fold",
    progress: Callable[[int], None] | None = None,
    approximated: set[str] | None = None,
) -> dict[TensorKey, Tensor]:
    """What tensor-parallel rank ``rank`` holds over all pipeline stages; a tensor loaded twice fails.

    What ``load_weights`` returns is added to ``approximated``.
    """
    table = parameters(config, read_vocab_rows(checkpoint, config))
    loaded: dict[TensorKey, Tensor] = {}

    def assign(key: TensorKey, tensor: Tensor) -> None:
        assert key not in loaded, f"{key} was filled twice"
        loaded[key] = tensor

    for stage in range(pp):
        layers = stage_layer_numbers(config, pp, stage)
        targets = {key: local_shape(key.name, parameter, tp) for key, parameter in table.items() if key.layer in layers}
        names = load_weights(
            checkpoint,
            targets,
            assign,
            config=config,
            tp_rank=rank,
            tp_size=tp,
            device=torch.device("cpu"),
            dtype=dtype,
            merge=merge,
            progress=progress,
        )
        if approximated is not None:
            approximated |= names
    assert table.keys() <= loaded.keys(), "the stages together hold the whole model"
    assert all(key.name.endswith(".bias") for key in loaded.keys() - table.keys()), "only folded norms add tensors"
    return loaded


def load_all(folder: Path, config: ModelConfig, tp: int, **options: Any) -> list[dict[TensorKey, Tensor]]:
    """Every rank's tensors; ``options`` as for ``load_rank``."""
    checkpoint = find_checkpoint(folder, config)
    return [load_rank(checkpoint, config, tp, rank, **options) for rank in range(tp)]


def raw_shards(folder: Path) -> list[dict[TensorKey, Tensor]]:
    """Each source rank's tensors of a GPT-NeoX folder, read plainly: no neoxrun code but the key."""
    (step,) = folder.glob("global_step*")
    shards: dict[int, dict[TensorKey, Tensor]] = {}
    for path in sorted(step.glob("layer_*-model_*-model_states.pt")):
        layer, rank = int(path.name[6:8]), int(path.name[15:17])
        for name, tensor in torch.load(path, weights_only=True).items():
            shards.setdefault(rank, {})[TensorKey(layer, _old(name))] = tensor
    if not shards:
        for path in sorted(step.glob("mp_rank_*.pt")):
            for name, tensor in torch.load(path, weights_only=True)["module"].items():
                _, layer, rest = name.split(".", 2)
                shards.setdefault(int(path.name[8:10]), {})[TensorKey(int(layer), _old(rest))] = tensor
    return [
        {key: tensor for key, tensor in shards[rank].items() if "inv_freq" not in key.name} for rank in sorted(shards)
    ]


def _old(name: str) -> str:
    return name.replace("linear1", "dense_h_to_4h").replace("linear2", "dense_4h_to_h")


def join(shards: list[Mapping[TensorKey, Tensor]], *, parallel_residual: bool) -> dict[TensorKey, Tensor]:
    """The whole model from its ranks' tensors, rule by rule as GPT-NeoX computes with them."""
    whole = {}
    for key in shards[0]:
        parts = [shard[key] for shard in shards]
        name = key.name
        if name in ("attention.dense.weight", "mlp.dense_4h_to_h.weight"):
            whole[key] = torch.cat(parts, dim=1)
        elif name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias"):
            whole[key] = torch.stack(parts).sum(0) if parallel_residual else parts[0]
            assert parallel_residual or all(torch.equal(part, parts[0]) for part in parts), f"{key} is replicated"
        elif "norm" in name or name == "position_embeddings.weight":
            whole[key] = torch.stack(parts).mean(0)
        else:
            whole[key] = torch.cat(parts, dim=0)
    return whole


def refusal(folder: Path, config: ModelConfig = TINY, tp: int = 1) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_all(folder, config, tp)
    return caught.value.render()


def assert_same_tensors(
    actual: Mapping[TensorKey, Tensor], expected: Mapping[TensorKey, Tensor], **tolerance: float
) -> None:
    assert actual.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(actual[key], tensor, msg=lambda text, key=key: f"{key}: {text}", **tolerance)
