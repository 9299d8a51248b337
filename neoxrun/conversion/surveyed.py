"""What a survey found in a folder of weights: tensors, files and what is odd."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from neoxrun.checkpoint import layout
from neoxrun.config.tensors import FIRST_LAYER, TensorKey, divided_dim


@dataclass
class SurveyedTensor:
    """One tensor of the model.

    Attributes:
        shapes: of each rank's part, by rank.
        dtypes: their types, without ``torch.``.
        drift: the largest difference between the ranks' versions of a tensor that each holds in full; None: not read.
        nonfinite: how many of the numbers that were read are NaN or infinite.
        largest: the largest magnitude that was read; None: not read.
    """

    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    dtypes: set[str] = field(default_factory=set)
    drift: float | None = None
    nonfinite: int = 0
    largest: float | None = None


@dataclass
class Survey:
    """What was found.

    Attributes:
        kind: layers, sequential or huggingface.
        folder: that holds the weights.
        tag: its name.
        tp: tensor-parallel size that the files' names tell.
        files: the weights' files, with their sizes.
        tensors: by layer number and canonical name.
        new_names: whether the MLP's matrices have GPT-NeoX's names since September 2024.
        read_bytes: bytes of the tensors whose numbers were looked at.
        tensor_bytes: bytes of all tensors.
        odd: what is odd, in sentences.
        buffers: shapes of the buffers that are not read.
    """

    kind: layout.CheckpointKind
    folder: Path
    tag: str
    tp: int
    files: dict[str, int]
    tensors: dict[TensorKey, SurveyedTensor] = field(default_factory=dict)
    new_names: bool = False
    read_bytes: int = 0
    tensor_bytes: int = 0
    odd: list[str] = field(default_factory=list)
    buffers: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def num_layers(self) -> int:
        """Transformer layers."""
        numbers = [key.layer for key in self.tensors if key.name.startswith(("input_layernorm", "attention.", "mlp."))]
        return max(numbers, default=FIRST_LAYER - 1) - FIRST_LAYER + 1

    @property
    def parameters(self) -> int:
        """Numbers of the whole model: a tensor that every rank holds in full counts once."""
        return sum(math.prod(whole_shape(key.name, tensor)) for key, tensor in self.tensors.items())

    def shape(self, layer: int, name: str) -> tuple[int, ...] | None:
        """The shape of a whole tensor; None if there is none."""
        tensor = self.tensors.get(TensorKey(layer, name))
        return None if tensor is None else whole_shape(name, tensor)


def whole_shape(name: str, tensor: SurveyedTensor) -> tuple[int, ...]:
    """The shape over all ranks whose files are present."""
    shapes = list(tensor.shapes.values())
    dim = divided_dim(name)
    whole = list(shapes[0])
    if dim is not None and dim < len(whole):
        whole[dim] = sum(shape[dim] for shape in shapes if dim < len(shape))
    return tuple(whole)
