"""Reading a checkpoint of any kind one layer at a time, under GPT-NeoX-20B's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from neoxrun.checkpoint import huggingface
from neoxrun.checkpoint.files import read_pickle, read_safetensors, safetensors_names
from neoxrun.checkpoint.layout import Checkpoint, check_layer_numbers
from neoxrun.config.foreign import refuse_quantised_tensor
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import IGNORED, WORD_EMBEDDINGS, TensorKey, canonical
from neoxrun.errors import CheckpointError
from neoxrun.terminal.words import listing

_SEQUENTIAL = re.compile(r"sequential\.(\d+)\.(.+)")


class StoredTensor(NamedTuple):
    """A tensor in a file, unchanged, and its name in that file."""

    tensor: Any
    name: str
    file: Path


Shard = dict[str, StoredTensor]
"""One source rank's tensors of a layer, by canonical name."""


class LayerSource:
    """The layers of a checkpoint. Files are opened for one layer and closed with it: no mapping outlives its use.

    Args:
        checkpoint: the files.
        config: the network that they should hold.

    Raises:
        CheckpointError: as ``read_pickle`` and ``read_safetensors``, or the files hold another network's layers.
    """

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self._index: dict[TensorKey, tuple[Path, str]] = {}
        if checkpoint.kind == "huggingface":
            self._index = self._hugging_face_index()
        elif checkpoint.kind == "sequential":
            for path in checkpoint.files:
                check_layer_numbers({layer for layer, _, _ in _sequential(path)}, config, path)

    def read_layer(self, layer: int) -> list[Shard]:
        """Each source rank's tensors of layer number ``layer``, without the buffers that are recomputed."""
        if self.checkpoint.kind == "layers":
            return [_shard(path, read_pickle(path)) for path in self.checkpoint.layer_files[layer]]
        if self.checkpoint.kind == "sequential":
            return [
                _shard(path, {name: tensor for number, name, tensor in _sequential(path) if number == layer})
                for path in self.checkpoint.files
            ]
        shard: Shard = {}
        wanted: dict[Path, dict[str, str]] = {}
        for key, (path, name) in self._index.items():
            if key.layer == layer:
                wanted.setdefault(path, {})[name] = key.name
        for path, names in wanted.items():
            tensors: Mapping[str, Tensor]
            tensors = read_safetensors(path, list(names)) if _is_safetensors(path) else read_pickle(path)
            shard |= {names[name]: StoredTensor(tensors[name], name, path) for name in names}
        return [shard]

    def _hugging_face_index(self) -> dict[TensorKey, tuple[Path, str]]:
        """The file and the name of each tensor, read from the files themselves."""
        index: dict[TensorKey, tuple[Path, str]] = {}
        for path in self.checkpoint.files:
            for name in safetensors_names(path) if _is_safetensors(path) else list(read_pickle(path)):
                if huggingface.is_buffer(name):
                    continue
                key = huggingface.to_tensor_key(name, self.config.num_layers)
                if key is None:
                    refuse_quantised_tensor(name, path)
                    raise CheckpointError(f"unexpected tensor {name}", code="wrong_tensors", where=str(path))
                if key in index:
                    raise CheckpointError(
                        f"the tensor {name} is also in {index[key][0].name} (as {index[key][1]})",
                        code="mixed_checkpoints",
                        where=str(path),
                    )
                index[key] = path, name
        if self.config.tie_embeddings:
            # torch.save writes the tied matrix a second time, as the head; some files have it under that name only.
            head = index.pop(TensorKey(self.config.num_layers + 4, "final_linear.weight"), None)
            if head is not None:
                index.setdefault(WORD_EMBEDDINGS, head)
        if not index:
            raise CheckpointError(
                "the checkpoint holds no tensors",
                code="wrong_tensors",
                where=str(self.checkpoint.folder),
            )
        check_layer_numbers({key.layer for key in index}, self.config, self.checkpoint.folder)
        return index


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _shard(path: Path, tensors: Mapping[str, Any]) -> Shard:
    shard: Shard = {}
    for name, tensor in tensors.items():
        if name in IGNORED:
            continue
        key = canonical(str(name))
        if key in shard:
            raise CheckpointError(
                f"the file holds {shard[key].name} and {name}, which are the same tensor",
                code="wrong_tensors",
                where=str(path),
            )
        shard[key] = StoredTensor(tensor, str(name), path)
    return shard


def _sequential(path: Path) -> list[tuple[int, str, Any]]:
    """Layer number, name and tensor of everything in a sequential file's ``module``."""
    module = read_pickle(path).get("module")
    if not isinstance(module, Mapping) or not module:
        raise CheckpointError(
            f"{path.name} holds no weights: they are in layer_*-model_states.pt files, which are missing",
            code="missing_shard",
            where=str(path),
            hint="Copy or download the layer files too.",
        )
    tensors = []
    unknown = []
    for name, tensor in module.items():
        if match := _SEQUENTIAL.fullmatch(str(name)):
            tensors.append((int(match[1]), match[2], tensor))
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(f"unexpected tensors: {listing(unknown)}", code="wrong_tensors", where=str(path))
    return tensors
