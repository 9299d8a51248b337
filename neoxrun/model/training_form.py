"""What a ``Stage`` has instead when it is built to be trained: sums that know their gradients, and dropout.

A tensor on a tensor-parallel rank is whole, which means the same on all ranks, or divided. Autograd has to sum where a
value changes from one to the other: ``Collectives`` names the two operations, ``training.tensor_parallel`` has them.

Shapes: ``T`` tokens, ``H`` hidden.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from neoxrun.model.norms import Norm
from neoxrun.model.residual import ResidualStream


class Collectives(Protocol):
    """The sums of tensor parallelism (Shoeybi et al., Megatron-LM, 2019: the operators g and f)."""

    def reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' ``x``, perhaps in place; its gradient is the gradient of each."""

    def copy(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` itself, whole, for layers that are divided; its gradient is the sum of all ranks' gradients."""


class Alone:
    """The collectives of a single rank."""

    def reduce(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` itself."""
        return x

    def copy(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` itself."""
        return x


class Dropout:
    """Random numbers that follow from where they are drawn, so that a pass can be repeated, now or after a restart.

    Every draw seeds the device's generator with the seed, the micro-batch, the layer and the number of the draw in it.
    Draws for whole tensors are the same on all tensor-parallel ranks, those for divided ones are not.

    Args:
        seed: of the run.
        device: of the activations.
        tp_rank: this rank within its tensor-parallel group.
        hidden: probability, of what is added to the residual stream.
        attention: probability, of attention's weights.
    """

    def __init__(
        self, seed: int, device: torch.device, tp_rank: int, *, hidden: float = 0.0, attention: float = 0.0
    ) -> None:
        self.active = False
        self._seed, self._device, self._tp_rank = seed, device, tp_rank
        self._hidden, self._attention = hidden, attention
        self._micro_batch = self._layer = self._draws = 0

    def begin(self, micro_batch: int) -> None:
        """Go to a micro-batch: its number in the run, over all data-parallel ranks."""
        self._micro_batch = micro_batch

    def enter(self, layer: int) -> None:
        """Go to the beginning of a layer, for the first time or again."""
        self._layer, self._draws = layer, 0

    def whole(self, x: torch.Tensor, probability: float) -> torch.Tensor:
        """``x`` with some numbers zeroed and the others scaled up; ``x`` is whole."""
        return self._drop(x, probability, divided=False)

    def divided(self, x: torch.Tensor, probability: float) -> torch.Tensor:
        """As ``whole``, of a divided ``x``."""
        return self._drop(x, probability, divided=True)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Dropout of what is added to the residual stream; ``x`` is whole, or this rank's part of a sum."""
        return self.whole(x, self._hidden)

    def attention(self) -> float:
        """The probability for attention's weights, which the generator has been seeded for."""
        if not self.active or not self._attention:
            return 0.0
        self._draw(divided=True)
        return self._attention

    def _drop(self, x: torch.Tensor, probability: float, *, divided: bool) -> torch.Tensor:
        if not self.active or not probability:
            return x
        self._draw(divided=divided)
        return F.dropout(x, probability)

    def _draw(self, *, divided: bool) -> None:
        rank = self._tp_rank if divided else -1
        place = f"{self._seed} {self._micro_batch} {self._layer} {self._draws} {rank}"
        self._draws += 1
        seed = int.from_bytes(hashlib.blake2b(place.encode(), digest_size=7).digest(), "big")
        if self._device.type == "cuda":
            torch.cuda.default_generators[self._device.index].manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)


@dataclass(frozen=True)
class TrainingForm:
    """What the modules of a stage that is trained share.

    Attributes:
        collectives: sums over the tensor-parallel ranks.
        dropout: random numbers.
    """

    collectives: Collectives
    dropout: Dropout


class TrainingStream(ResidualStream):
    """The residual stream of a stage that is trained: each norm's output goes to divided layers, so it is copied."""

    def __init__(self, form: TrainingForm) -> None:
        self.peers = None
        self._form = form

    def add(self, x: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The stream with what a layer adds to it, each part after dropout.

        The ranks' parts of a sum have the same mask, so that this is dropout of the sum.
        """
        if not parts:
            return x
        dropped = [self._form.dropout.hidden(part) for part in parts]
        return x + self._form.collectives.reduce(dropped[0] if len(dropped) == 1 else dropped[0] + dropped[1])

    def add_and_normalize(
        self, x: torch.Tensor, parts: tuple[torch.Tensor, ...], norms: tuple[Norm, ...]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """As ``add``, with norms of the sum, for layers that are divided."""
        x = self.add(x, parts)
        return x, tuple(self._form.collectives.copy(norm(x)) for norm in norms)
