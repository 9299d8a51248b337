"""A training pass: rows of tokens through a ``Stage`` in training form to a weighted sum of their losses.

Shapes: ``B`` rows of ``T`` tokens, ``H`` hidden, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from neoxrun.model.attention import Attention
from neoxrun.model.causal import CausalAttention
from neoxrun.model.gpt_neox import Stage
from neoxrun.training.tensor_parallel import token_losses

# fp32 logits at a time: 512 MB, and twice that in the backward pass. A pass with more has them in chunks, whose logits
# are computed twice, which costs the 20B 0.5 % of its operations.
_MOST_LOGITS = 2**27


class LanguageModel(nn.Module):
    """The module that DeepSpeed trains.

    Args:
        stage: the whole network, in training form.
        checkpointed: keep only the input of each layer for the backward pass, and compute the layer again there.
        most_logits: numbers of the logits that this rank holds at a time.
    """

    def __init__(self, stage: Stage, *, checkpointed: bool = False, most_logits: int = _MOST_LOGITS) -> None:
        super().__init__()
        assert stage.form is not None, "the stage is made to be run"
        self.stage, self._form = stage, stage.form
        self._checkpointed, self._most_logits = checkpointed, most_logits

    def forward(
        self, ids: torch.Tensor, targets: torch.Tensor | None = None, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The sum of the tokens' losses, each times its weight: an fp32 scalar, the same on all tensor-parallel ranks.

        Without targets the logits of the token after the last one: ``[1, V / tp]``.

        Args:
            ids, targets: int64 ``[B, T]``.
            weights: fp32 ``[B, T]``.
        """
        if targets is None or weights is None:
            return self.stage.head(self._normed(ids)[-1:])
        return self._loss(self._normed(ids), targets.flatten(), weights.flatten())

    def _normed(self, ids: torch.Tensor) -> torch.Tensor:
        """``[B * T, H]`` after the final norm."""
        form, stage = self._form, self.stage
        form.dropout.active = self.training
        length = ids.shape[1]
        form.dropout.enter(0)
        positions = torch.arange(length, device=ids.device).repeat(len(ids))
        x = form.dropout.hidden(stage.embed(ids.flatten(), positions))
        attention = CausalAttention(length, stage.rotary, form.dropout)
        for index in range(len(stage.layers)):
            x = self._repeatable(_run_layer, stage, index, x, attention, wanted=self._checkpointed)
        _, (normed,) = stage.residual.add_and_normalize(x, (), (stage.norm,))
        return normed

    def _loss(self, normed: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        rows = -(-self.stage.vocab_size // self.stage.mesh.tp)
        chunk = max(1, self._most_logits // rows)
        parts = [torch.split(part, chunk) for part in (normed, targets, weights)]
        losses = [
            self._repeatable(_chunk_loss, self.stage, *chunked, wanted=len(parts[0]) > 1)
            for chunked in zip(*parts, strict=True)
        ]
        return torch.stack(losses).sum()

    def _repeatable(self, function: Callable[..., torch.Tensor], *arguments: object, wanted: bool) -> torch.Tensor:
        """The function's result; if ``wanted``, autograd keeps the arguments only and calls it again."""
        if not wanted or not torch.is_grad_enabled():
            return function(*arguments)
        # Dropout seeds its generator itself.
        result: torch.Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
        return result


def _run_layer(stage: Stage, index: int, x: torch.Tensor, attention: Attention) -> torch.Tensor:
    """The residual stream ``[B * T, H]`` after a layer."""
    assert stage.form is not None
    stage.form.dropout.enter(index + 1)
    x, parts = stage.layers[index](x, (), attention)
    return stage.residual.add(x, parts)


def _chunk_loss(stage: Stage, x: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum of the losses of some tokens, of the output of the final norm."""
    losses = token_losses(stage.head(x), targets, stage.mesh, stage.vocab_size)
    return (losses * weights).sum()
