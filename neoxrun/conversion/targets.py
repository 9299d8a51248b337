"""The two kinds of folders that a conversion writes, as files that are filled tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from neoxrun.checkpoint.huggingface import to_hugging_face_name
from neoxrun.config.tensors import Parameter, TensorKey, local_shape
from neoxrun.conversion.safetensors_file import SafetensorsFile, Written
from neoxrun.conversion.workplace import Workplace


class Target(Protocol):
    """A kind of folder.

    Attributes:
        ranks: tensor-parallel ranks whose tensors it takes, one after the other.
    """

    ranks: int

    def wanted(self, rank: int) -> set[int]:
        """The layer numbers of which files are still missing."""

    def assign(self, rank: int, key: TensorKey, tensor: Tensor) -> None:
        """Take one tensor; all tensors of a layer come before those of the next. Those that are there are passed."""

    def finish(self) -> None:
        """All tensors have come: write what is about all of them."""

    def abandon(self) -> None:
        """Close what is open, after an error."""


class NeoxTarget:
    """GPT-NeoX layer files: one for each layer and rank.

    Args:
        work: where to write.
        tag: the folder's name, ``global_step<N>``.
        table: the whole model's tensors.
        ranks: tensor-parallel size.
        new_names: whether the MLP's matrices have the names that GPT-NeoX has given them since September 2024.
    """

    def __init__(
        self, work: Workplace, tag: str, table: Mapping[TensorKey, Parameter], ranks: int, *, new_names: bool
    ) -> None:
        self.ranks = ranks
        self._work, self._tag, self._table, self._new = work, tag, table, new_names
        self._waiting: dict[str, Tensor] = {}

    def wanted(self, rank: int) -> set[int]:
        """As ``Target`` says."""
        return {key.layer for key in self._table if not self._work.has(self._name(key.layer, rank))}

    def assign(self, rank: int, key: TensorKey, tensor: Tensor) -> None:
        """As ``Target`` says; a layer is written with its last tensor."""
        self._waiting[key.name] = tensor
        names = [other.name for other in self._table if other.layer == key.layer]
        if len(self._waiting) == len(names):
            # In the table's order, whatever theirs was: so equal layers become equal files.
            layer = {self._spelt(name): self._waiting[name] for name in names}
            self._work.save(self._name(key.layer, rank), layer)
            self._waiting = {}

    def finish(self) -> None:
        """Write what GPT-NeoX's loader reads next to the layers: ``latest``, and states of ranks without optimizer."""
        step = int(self._tag.removeprefix("global_step"))
        for rank in range(self.ranks):
            name = f"{self._tag}/mp_rank_{rank:02d}_model_states.pt"
            if not self._work.has(name):
                self._work.save(name, rank_states(step, self.ranks))
        self._work.write_text("latest", self._tag)

    def abandon(self) -> None:
        """As ``Target`` says: nothing is open."""

    def _name(self, layer: int, rank: int) -> str:
        return f"{self._tag}/layer_{layer:02d}-model_{rank:02d}-model_states.pt"

    def _spelt(self, name: str) -> str:
        if not self._new:
            return name
        return name.replace("mlp.dense_h_to_4h.", "mlp.linear1.").replace("mlp.dense_4h_to_h.", "mlp.linear2.")


def rank_states(step: int, ranks: int) -> dict[str, object]:
    """What GPT-NeoX's loader reads of an mp_rank file next to layer files, without an optimizer.

    Args:
        step: of the checkpoint.
        ranks: tensor-parallel size.
    """
    return {
        "dp_world_size": 1,
        "mp_world_size": ranks,
        "module": None,
        "buffer_names": [],
        "optimizer": None,
        "lr_scheduler": None,
        "sparse_tensor_module_names": [],
        "global_steps": step,
        "global_samples": 0,
        "skipped_steps": 0,
        "iteration": step,
        "args": {},
    }


class HuggingFaceTarget:
    """Safetensors files of at most ``shard_size`` bytes, or one tensor, each.

    Args:
        work: where to write.
        tensors: every tensor, layer by layer.
        num_layers: transformer layers.
        shard_size: most bytes of a file.
    """

    ranks = 1

    def __init__(self, work: Workplace, tensors: Mapping[TensorKey, Written], num_layers: int, shard_size: int) -> None:
        self._work, self._tensors = work, tensors
        self._names = {key: to_hugging_face_name(key, num_layers) for key in tensors}
        shards: list[list[TensorKey]] = [[]]
        held = 0
        for key, written in tensors.items():
            size = _bytes_of(written)
            if held and held + size > shard_size:
                shards.append([])
                held = 0
            shards[-1].append(key)
            held += size
        self._files = ["model.safetensors"]
        if len(shards) > 1:
            self._files = [f"model-{at:05d}-of-{len(shards):05d}.safetensors" for at in range(1, len(shards) + 1)]
        self._shards = dict(zip(self._files, shards, strict=True))
        self._file_of = {key: name for name, keys in self._shards.items() for key in keys}
        self._done = {name for name in self._files if work.has(name)}
        self._open: dict[str, SafetensorsFile] = {}

    def wanted(self, rank: int) -> set[int]:
        """As ``Target`` says."""
        return {key.layer for key, name in self._file_of.items() if name not in self._done}

    def assign(self, rank: int, key: TensorKey, tensor: Tensor) -> None:
        """As ``Target`` says; a file gets its name with its last tensor."""
        name = self._file_of[key]
        if name in self._done:
            return
        with self._work.writing():
            if name not in self._open:
                header = {self._names[other]: self._tensors[other] for other in self._shards[name]}
                self._open[name] = SafetensorsFile(self._work.begin(name), header)
            file = self._open[name]
            file.write(self._names[key], tensor)
            if not file.missing:
                file.close()
        if not file.missing:
            self._work.finish(name)
            self._done.add(name)
            del self._open[name]

    def finish(self) -> None:
        """Write the index, where there are several files."""
        if len(self._files) > 1:
            total = sum(map(_bytes_of, self._tensors.values()))
            weight_map = {self._names[key]: name for key, name in self._file_of.items()}
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            self._work.write_json("model.safetensors.index.json", index)

    def abandon(self) -> None:
        """As ``Target`` says."""
        for file in self._open.values():
            file.abandon()


def _bytes_of(written: Written) -> int:
    return math.prod(written.shape) * written.dtype.itemsize


def written_tensors(
    table: Mapping[TensorKey, Parameter], dtypes: Mapping[TensorKey, torch.dtype], ranks: int
) -> dict[TensorKey, Written]:
    """How each tensor of the model is to be in the files of one of ``ranks`` ranks."""
    return {key: Written(local_shape(key.name, parameter, ranks), dtypes[key]) for key, parameter in table.items()}


def missing_bytes(target: Target, tensors: Mapping[TensorKey, Written]) -> int:
    """Most bytes that are still to be written."""
    per_layer: dict[int, int] = {}
    for key, written in tensors.items():
        per_layer[key.layer] = per_layer.get(key.layer, 0) + _bytes_of(written)
    layers: list[Collection[int]] = [target.wanted(rank) for rank in range(target.ranks)]
    return sum(per_layer[layer] for wanted in layers for layer in wanted)


def relative_files(folder: Path) -> list[str]:
    """Every file below a folder, by its name within it, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
