"""Small adapters for tests, written plainly: no PEFT, whose import takes seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import TensorKey, divided_dim
from neoxrun.model.gpt_neox import Stage

_PREFIX = "base_model.model.gpt_neox.layers"


def adapter_tensors(config: ModelConfig, rank: int = 2, scale: float = 0.1) -> dict[str, Tensor]:
    """A and B of every linear layer of a network, by PEFT's names."""
    hidden, wide = config.hidden_size, config.intermediate_size
    shapes = {
        "attention.query_key_value": (3 * hidden, hidden),
        "attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (wide, hidden),
        "mlp.dense_4h_to_h": (hidden, wide),
    }
    generator = torch.Generator().manual_seed(1)
    found = {}
    for layer in range(config.num_layers):
        for name, (outputs, inputs) in shapes.items():
            for part, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                found[f"{_PREFIX}.{layer}.{name}.lora_{part}.weight"] = scale * torch.randn(shape, generator=generator)
    return found


def write_peft_folder(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    """A PEFT folder with these tensors; ``config`` is put over its configuration, where None leaves a key out."""
    folder.mkdir(parents=True, exist_ok=True)
    rank = next(iter(tensors.values())).shape[0] if tensors else 2
    content = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
        "base_model_name_or_path": "models/base",
    } | config
    (folder / "adapter_config.json").write_text(
        json.dumps({key: value for key, value in content.items() if value is not None})
    )
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@torch.no_grad()
def fill_lora(stage: Stage, matrices: Mapping[TensorKey, tuple[Tensor, Tensor]]) -> None:
    """Fill a stage's adapters in place with this rank's parts of whole ``A`` and ``B``, by the weights' keys."""
    for key, parameter in stage.keyed_parameters().items():
        module, _, part = key.name.rpartition(".")
        if part in ("lora_a", "lora_b"):
            whole = matrices[key._replace(name=f"{module}.weight")][part == "lora_b"]
            dim = divided_dim(key.name)
            parameter.copy_(whole if dim is None else whole.chunk(stage.mesh.tp, dim)[stage.mesh.tp_rank])
