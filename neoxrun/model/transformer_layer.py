"""A transformer layer of GPT-NeoX: ``SelfAttention`` and ``MLP``, which a ``Layer`` adds to the residual stream.

Shapes: ``T`` tokens, ``H`` hidden, ``N`` this rank's heads, ``D`` head dim. Submodules have the names of the
checkpoint's tensors.
"""

from __future__ import annotations

import torch
from torch import nn

from neoxrun.config.settings import ModelConfig
from neoxrun.model.attention import Attention
from neoxrun.model.kernels import forked
from neoxrun.model.layers import ColumnParallelLinear, RowParallelLinear
from neoxrun.model.norms import build_norm
from neoxrun.model.residual import ResidualStream
from neoxrun.parallel.mesh import Mesh


def _select(x: torch.Tensor, wanted: torch.Tensor | None) -> torch.Tensor:
    """The tokens ``wanted`` of ``x`` ``[T, H]``; None: all."""
    return x if wanted is None else x[wanted]


class SelfAttention(nn.Module):
    """Multi-head self-attention: ``[T, H] -> [T, H]``, this rank's part of a sum over the tensor-parallel ranks.

    Args:
        config: the network.
        mesh: this rank's coordinates.
        index: index of the layer in this stage, and so in its cache.
        bias_on_every_rank: see ``RowParallelLinear``.
    """

    def __init__(self, config: ModelConfig, mesh: Mesh, index: int, *, bias_on_every_rank: bool) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.use_bias_in_attn_linear
        self.index = index
        self.heads = config.num_attention_heads // mesh.tp
        self.query_key_value = ColumnParallelLinear(mesh, hidden, 3 * hidden, bias=bias)
        self.dense = RowParallelLinear(mesh, hidden, hidden, bias=bias, bias_on_every_rank=bias_on_every_rank)

    def forward(self, x: torch.Tensor, attention: Attention, wanted: torch.Tensor | None) -> torch.Tensor:
        """``[T, H] -> [T, H]``, or as many tokens as are wanted."""
        # Rows of query_key_value are [q | k | v] head by head.
        qkv = self.query_key_value(x).view(len(x), self.heads, 3, -1)
        out: torch.Tensor = self.dense(attention.attend(self.index, qkv, wanted))
        return out


class MLP(nn.Module):
    """The feed-forward network: ``[T, H] -> [T, H]``, this rank's part of a sum as in ``SelfAttention``."""

    def __init__(self, config: ModelConfig, mesh: Mesh, *, bias_on_every_rank: bool) -> None:
        super().__init__()
        hidden, wide, bias = config.hidden_size, config.intermediate_size, config.use_bias_in_mlp
        self.dense_h_to_4h = ColumnParallelLinear(mesh, hidden, wide, bias=bias, activation=config.gelu)
        self.dense_4h_to_h = RowParallelLinear(mesh, wide, hidden, bias=bias, bias_on_every_rank=bias_on_every_rank)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: ``[T, H]``, normed."""
        out: torch.Tensor = self.dense_4h_to_h(self.dense_h_to_4h(x))
        return out


class Layer(nn.Module):
    """A transformer layer, with GPT-J's parallel residual (one all-reduce) or the sequential one (two).

    Parallel: ``x + attention(norm1(x)) + mlp(norm2(x))``. Sequential: ``y = x + attention(norm1(x))``, then
    ``y + mlp(norm2(y))``. With ``gpt_j_tied`` the parallel residual's ``norm2`` is ``norm1``.

    Args:
        config: the network.
        mesh: this rank's coordinates.
        index: index of the layer in this stage.
        residual: the stage's.
        bias_on_every_rank: see ``RowParallelLinear``.
    """

    def __init__(
        self, config: ModelConfig, mesh: Mesh, index: int, residual: ResidualStream, *, bias_on_every_rank: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.parallel_residual = config.gpt_j_residual
        self.input_layernorm = build_norm(config)
        self.tied = config.gpt_j_residual and config.gpt_j_tied
        if not self.tied:
            self.post_attention_layernorm = build_norm(config)
        self.attention = SelfAttention(config, mesh, index, bias_on_every_rank=bias_on_every_rank)
        self.mlp = MLP(config, mesh, bias_on_every_rank=bias_on_every_rank)

    def forward(
        self,
        x: torch.Tensor,
        parts: tuple[torch.Tensor, ...],
        attention: Attention,
        wanted: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Run the layer.

        Args:
            x: ``[T, H]``, the same on every tensor-parallel rank.
            parts: of ``[T, H]``, this rank's share of what the layer before adds to ``x``.
            attention: the pass's.
            wanted: int64, the tokens whose outputs are wanted. None: all.

        Returns:
            The residual stream, of as many tokens as are wanted, and this rank's share of what is to be added to it.
        """
        add_and_normalize = self.residual.add_and_normalize
        if not self.parallel_residual:
            x, (normed,) = add_and_normalize(x, parts, (self.input_layernorm,))
            attended = self.attention(normed, attention, wanted)
            x, (normed,) = add_and_normalize(_select(x, wanted), (attended,), (self.post_attention_layernorm,))
            return x, (self.mlp(normed),)
        if self.tied:
            x, (normed,) = add_and_normalize(x, parts, (self.input_layernorm,))
            second = normed
        else:
            x, (normed, second) = add_and_normalize(x, parts, (self.input_layernorm, self.post_attention_layernorm))
        # The two branches do not depend on each other.
        with forked(x.device) as join:
            fed = self.mlp(_select(second, wanted))
        attended = self.attention(normed, attention, wanted)
        join()
        return _select(x, wanted), (attended, fed)
