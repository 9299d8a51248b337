"""A target rank's tensors of a layer, made from the source ranks' versions of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from neoxrun.checkpoint.adapter import Adapter, LowRank
from neoxrun.checkpoint.fold import RankNorms, fold_weight, foldable_norms, norm_before
from neoxrun.checkpoint.merge import ADAPTER, Rule, contributing_shards, rule_of, shard_slices
from neoxrun.checkpoint.source import Shard
from neoxrun.config.settings import Merge, ModelConfig
from neoxrun.config.tensors import Parameter, TensorKey, local_shape


class RankShare:
    """What one rank of a tensor-parallel group gets of the layers, which are given in order.

    Args:
        config: the network.
        tp_rank: this rank within its group.
        tp_size: ranks in that group.
        device: device of the tensors.
        dtype: number format of the tensors; None: that of each in the files, and fp32 for a bias that they lack.
        merge: where ``tp_size`` is not the checkpoint's, what becomes of norms that differ between its ranks.
        one_version: where it is, merge all the same.
        adapter: is merged into the weights that it changes, which then have one version, after norms have been folded
            into them, as it is trained; None: there is none.

    Attributes:
        approximated: names of undivided tensors that differed between the source ranks and became one, and ``ADAPTER``
            where that may not be how the adapter was trained.
    """

    def __init__(
        self,
        config: ModelConfig,
        tp_rank: int,
        tp_size: int,
        device: torch.device,
        dtype: torch.dtype | None,
        merge: Merge,
        adapter: Adapter | None = None,
        *,
        one_version: bool = False,
    ) -> None:
        self.approximated: set[str] = set()
        self._config, self._tp_rank, self._tp_size = config, tp_rank, tp_size
        self._device, self._dtype, self._folds = device, dtype, merge == "fold"
        self._adapter = adapter
        self._low_rank: Mapping[TensorKey, LowRank] = {} if adapter is None else adapter.low_rank
        self._one_version = one_version or adapter is not None
        self._norms: dict[str, RankNorms] = {}  # that are folded into the layers that read them
        self._before = -1  # the layer

    def tensors(
        self, layer: int, shards: Sequence[Shard], wanted: Mapping[TensorKey, Parameter]
    ) -> Iterator[tuple[TensorKey, Tensor]]:
        """The ``wanted`` tensors of a layer, each a new one.

        A folded norm gives its readers a bias: one that is not among the wanted, as of the head, comes after them.

        Args:
            layer: its number.
            shards: each source rank's tensors of the layer.
            wanted: of the whole model.
        """
        config, head = self._config, self._config.num_layers + 4
        assert layer != head or self._before == head - 1, "the head reads the final norm, which is the layer before"
        self._before = layer
        if layer != head:
            folds = self._folds and not self._keeps(shards)
            self._norms = foldable_norms(shards, config, self._device) if folds else {}
        added: dict[str, Tensor] = {}
        # Weights first: what a norm adds to a bias is known then.
        for key in sorted(wanted, key=lambda key: key.name.endswith("bias")):
            stored = [shard[key.name].tensor for shard in shards]
            module, _, part = key.name.rpartition(".")
            norms = self._norms.get(norm_before(module, config) or "")
            shape = local_shape(key.name, wanted[key], self._tp_size)
            tensor = torch.empty(shape, dtype=self._dtype or stored[0].dtype, device=self._device)
            if module in self._norms:
                tensor.fill_(0 if part == "bias" else 1)
            elif norms is not None and part == "weight":
                slices = shard_slices(wanted[key].shape[0], len(stored), self._tp_size, self._tp_rank)
                added[module] = fold_weight(tensor, slices, stored, norms, self._low_rank.get(key))
                if key in self._low_rank:
                    self._note_adapter("fold")
            elif module in added:
                self._fill(wide := tensor.float(), key, wanted[key], stored)
                tensor.copy_(wide + added.pop(module))
            else:
                self._fill(tensor, key, wanted[key], stored)
            yield key, tensor
        if config.norm == "layernorm":  # the other norm has no shifts
            for module, bias in added.items():
                yield TensorKey(layer, f"{module}.bias"), bias.to(self._dtype or bias.dtype)

    def _fill(self, target: Tensor, key: TensorKey, parameter: Parameter, shards: Sequence[Tensor]) -> None:
        """Write the share of a tensor into ``target``, as the rules of ``checkpoint.merge`` have it."""
        if (dim := parameter.dim) is not None:
            filled = 0
            for part in shard_slices(parameter.shape[dim], len(shards), self._tp_size, self._tp_rank):
                values = shards[part.shard].narrow(dim, part.start, part.length)
                share = target.narrow(dim, part.target, part.length)
                if (low_rank := self._low_rank.get(key)) is None:
                    share.copy_(values)
                else:
                    first = part.shard * (parameter.shape[dim] // len(shards)) + part.start
                    low_rank.merge(share, values, *((first, 0) if dim == 0 else (0, first)))
                filled += part.length
            target.narrow(dim, filled, target.shape[dim] - filled).zero_()  # vocabulary padding
            return
        rule = rule_of(key.name, self._config)
        # The first rank's bias serves all of them, even at the checkpoint's own size.
        becomes_one = rule is Rule.ONE or (rule is Rule.MEAN and not self._keeps(shards))
        if becomes_one and any(not torch.equal(shards[0], other) for other in shards[1:]):
            self.approximated.add(key.name)
            self._note_adapter("average")
        ranks = contributing_shards(rule, len(shards), self._tp_size, self._tp_rank, one_version=self._one_version)
        if len(ranks) == 1:
            target.copy_(shards[ranks[0]])
            return
        total = torch.zeros(parameter.shape, dtype=torch.float32)
        for rank in ranks:
            total += shards[rank]
        target.copy_(total / len(ranks) if rule is Rule.MEAN else total)

    def _note_adapter(self, merge: Merge) -> None:
        """Note an adapter that may be of a model whose norms were merged otherwise: PEFT knows averaged ones."""
        if self._adapter is not None and merge != (self._adapter.merge or "average"):
            self.approximated.add(ADAPTER)

    def _keeps(self, shards: Sequence[object]) -> bool:
        """Whether each rank keeps the undivided tensors of the same source rank."""
        return self._tp_size == len(shards) and not self._one_version
