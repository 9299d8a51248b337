"""A checkpoint's tensors as one of any number of ranks is to have them in its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from neoxrun.checkpoint.adapter import Adapter
from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.checkpoint.load import load_weights
from neoxrun.checkpoint.source import LayerSource
from neoxrun.config.settings import Merge, ModelConfig
from neoxrun.config.tensors import VOCABULARY, Parameter, TensorKey, local_shape
from neoxrun.conversion.folding import FinalNorm, norm_bias
from neoxrun.errors import CheckpointError

_CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Division:
    """How a checkpoint's tensors become those of the target.

    Attributes:
        checkpoint: the source.
        config: its network.
        table: every tensor of the model, as it is written.
        ranks: of the target. At the source's own number each keeps its own undivided tensors.
        merge: at another number, what becomes of norms that differ.
        final: the final norm, if it is folded.
        adapter: what is added to the source's weights; None: nothing.
        cut: zero rows at the end of the source's vocabulary that one rank's target leaves out.
    """

    checkpoint: Checkpoint
    config: ModelConfig
    table: Mapping[TensorKey, Parameter]
    ranks: int
    merge: Merge
    final: FinalNorm | None
    adapter: Adapter | None = None
    cut: int = 0

    @property
    def padding(self) -> int:
        """Zero rows that the target's ranks add to the vocabulary, which does not divide over them without."""
        return -self.table[TensorKey(0, "word_embeddings.weight")].shape[0] % self.ranks

    @property
    def folds(self) -> bool:
        """Whether norms that differ are folded."""
        return self.merge == "fold" and not self.keeps

    @property
    def keeps(self) -> bool:
        """Whether each rank keeps the undivided tensors of the same source rank; an adapter adds to one version."""
        return self.checkpoint.source_tp == self.ranks and self.adapter is None

    def read(
        self, assign: Callable[[TensorKey, Tensor], None], *, layers: set[int], rank: int, dtype: torch.dtype | None
    ) -> frozenset[str]:
        """Give a rank's tensors of some layers to ``assign``, layer by layer.

        Args:
            assign: takes a tensor's key and a new tensor; also a bias that the head would need, which is not in
                ``table``.
            layers: the numbers of the layers.
            rank: the rank.
            dtype: number format of the tensors; None: that of each in the source.

        Returns:
            What ``load_weights`` returns.

        Raises:
            CheckpointError: as ``load_weights``.
        """
        above = self.config.num_layers + 4
        wanted = layers | ({above - 1} if above in layers else set())  # the head's norm is read before it
        shift = norm_bias(self.config)

        def replace(key: TensorKey, tensor: Tensor) -> None:
            if self.cut and key.name in VOCABULARY:
                tensor = tensor[: -self.cut]
            if key.layer in layers:
                assign(key, tensor if self.final is None or key != shift else self.final.shift.to(tensor.dtype))

        shapes = {
            key: local_shape(key.name, parameter, self.ranks)
            for key, parameter in self.table.items()
            if key.layer in wanted
        }
        for key in shapes:
            if key.name in VOCABULARY:
                shapes[key] = (shapes[key][0] + self.cut, *shapes[key][1:])
        return load_weights(
            self.checkpoint,
            shapes,
            replace,
            config=self.config,
            tp_rank=rank,
            tp_size=self.ranks,
            device=_CPU,
            dtype=dtype,
            merge=self.merge,
            adapter=self.adapter,
        )


def stored_dtypes(source: LayerSource, table: Mapping[TensorKey, Parameter]) -> dict[TensorKey, torch.dtype]:
    """The type of each tensor in the files. Reads headers only.

    Raises:
        CheckpointError: a tensor is missing.
    """
    found = {}
    for layer in dict.fromkeys(key.layer for key in table):
        shard = source.read_layer(layer)[0]
        for key in table:
            if key.layer == layer:
                if key.name not in shard:
                    raise CheckpointError(
                        f"layer {layer} has no {key.name}",
                        code="wrong_tensors",
                        where=str(source.checkpoint.folder),
                        hint="Use the configuration that belongs to this checkpoint.",
                    )
                found[key] = shard[key.name].tensor.dtype
    return found
