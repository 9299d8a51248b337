"""The weights of a checkpoint: GPT-NeoX layer files at the run's tensor-parallel size, each rank its own."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from neoxrun.config.tensors import TensorKey, local_shape, parameters
from neoxrun.conversion.targets import rank_states
from neoxrun.conversion.workplace import Workplace
from neoxrun.model.gpt_neox import Stage


class WeightFiles(Protocol):
    """The files that one rank writes, tensor by tensor."""

    def add(self, key: TensorKey, tensor: Tensor) -> None:
        """Take this rank's part of one tensor; those of a layer come together."""

    def finish(self) -> None:
        """All tensors have come."""


class LayerFiles:
    """A rank's layer files, as GPT-NeoX writes them, under the names that it has used since September 2024.

    Args:
        stage: whose weights they are.
        work: the checkpoint's folder.
        step: of the checkpoint.
    """

    def __init__(self, stage: Stage, work: Workplace, step: int) -> None:
        self._stage, self._work, self._step = stage, work, step
        self._table = parameters(stage.config, stage.vocab_size)
        self._waiting: dict[str, Tensor] = {}

    def add(self, key: TensorKey, tensor: Tensor) -> None:
        """As ``WeightFiles`` says; a layer is written with its last tensor."""
        self._waiting[key.name] = tensor.to("cpu", self._stage.weights_dtype)
        table = {other: entry for other, entry in self._table.items() if other.layer == key.layer}
        if any(entry.used and other.name not in self._waiting for other, entry in table.items()):
            return
        mesh = self._stage.mesh
        layer = {}
        for other, entry in table.items():
            if (content := self._waiting.get(other.name)) is None:  # GPT-NeoX has it, and does not use it
                content = torch.full(
                    local_shape(other.name, entry, mesh.tp),
                    0.0 if other.name.endswith("bias") else 1.0,
                    dtype=self._stage.weights_dtype,
                )
            name = other.name.replace("dense_h_to_4h", "linear1").replace("dense_4h_to_h", "linear2")
            layer[name] = content
        self._work.save(f"layer_{key.layer:02d}-model_{mesh.tp_rank:02d}-model_states.pt", layer)
        self._waiting = {}

    def finish(self) -> None:
        """Write what GPT-NeoX's loader reads next to the layers."""
        assert not self._waiting, f"a layer lacks tensors next to {sorted(self._waiting)}"
        mesh = self._stage.mesh
        self._work.save(f"mp_rank_{mesh.tp_rank:02d}_model_states.pt", rank_states(self._step, mesh.tp))
