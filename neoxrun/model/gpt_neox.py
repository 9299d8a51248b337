"""The GPT-NeoX network (Black et al., GPT-NeoX-20B, 2022): one pipeline stage of it, on one tensor-parallel rank.

A pass begins in ``Stage.forward``, which runs the stage's layers; each ``Layer`` adds ``Attention`` and ``MLP`` to the
residual stream. On the last stage ``Stage.logits`` or ``Stage.scores`` follows.

Shapes: ``B`` batch, ``T`` new tokens, ``H`` hidden, ``N`` this rank's heads, ``D`` head dim, ``V`` vocabulary.
Submodules have the names of the checkpoint's tensors, so that the loader needs no table of the network.
"""

from __future__ import annotations

import torch
from torch import nn

from neoxrun.config.precisions import Precisions
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import TensorKey
from neoxrun.model.attention import AttentionContext, attend, narrow_to_wanted
from neoxrun.model.dtypes import DTYPES
from neoxrun.model.layers import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding, frozen, unfilled
from neoxrun.model.norms import build_norm
from neoxrun.model.rotary import Rotary, rotary_tables
from neoxrun.parallel.mesh import Mesh
from neoxrun.parallel.partition import stage_layers, vocab_shard


def _select(x: torch.Tensor, wanted: torch.Tensor | None) -> torch.Tensor:
    """The tokens ``wanted`` of ``x`` ``[B, T, H]``; None: all."""
    return x if wanted is None else x[:, wanted]


class Attention(nn.Module):
    """Multi-head self-attention: ``[B, T, H] -> [B, T, H]``, this rank's part of a sum over the tensor-parallel ranks.

    Args:
        config: the network.
        mesh: this rank's coordinates.
        index: index of the layer in this stage, and so in its cache.
    """

    def __init__(self, config: ModelConfig, mesh: Mesh, index: int) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.use_bias_in_attn_linear
        self.index = index
        self.heads = config.num_attention_heads // mesh.tp
        self.query_key_value = ColumnParallelLinear(mesh, hidden, 3 * hidden, bias=bias)
        self.dense = RowParallelLinear(mesh, hidden, hidden, bias=bias, bias_on_every_rank=config.gpt_j_residual)

    def forward(self, x: torch.Tensor, rotary: Rotary, context: AttentionContext) -> torch.Tensor:
        """``x``: ``[B, T, H]``, normed. Returns the tokens that are wanted, of a pass over rows."""
        batch, tokens, _ = x.shape
        # The rows of query_key_value are [q | k | v] head by head.
        qkv = self.query_key_value(x).view(batch, tokens, self.heads, 3, -1)
        out: torch.Tensor = self.dense(attend(qkv, rotary, self.index, context))
        return out


class MLP(nn.Module):
    """The feed-forward network: ``[B, T, H] -> [B, T, H]``, this rank's part of a sum as in ``Attention``."""

    def __init__(self, config: ModelConfig, mesh: Mesh) -> None:
        super().__init__()
        hidden, wide, bias = config.hidden_size, config.intermediate_size, config.use_bias_in_mlp
        self.dense_h_to_4h = ColumnParallelLinear(mesh, hidden, wide, bias=bias, activation=config.gelu)
        self.dense_4h_to_h = RowParallelLinear(mesh, wide, hidden, bias=bias, bias_on_every_rank=config.gpt_j_residual)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: ``[B, T, H]``, normed."""
        out: torch.Tensor = self.dense_4h_to_h(self.dense_h_to_4h(x))
        return out


class Layer(nn.Module):
    """A transformer layer, with GPT-J's parallel residual (one all-reduce) or the sequential one (two).

    Parallel: ``x + attention(norm1(x)) + mlp(norm2(x))``. Sequential: ``y = x + attention(norm1(x))``, then
    ``y + mlp(norm2(y))``. With ``gpt_j_tied`` the parallel residual's ``norm2`` is ``norm1``.
    """

    def __init__(self, config: ModelConfig, mesh: Mesh, index: int) -> None:
        super().__init__()
        self.mesh = mesh
        self.parallel_residual = config.gpt_j_residual
        self.input_layernorm = build_norm(config)
        self.tied = config.gpt_j_residual and config.gpt_j_tied
        if not self.tied:
            self.post_attention_layernorm = build_norm(config)
        self.attention = Attention(config, mesh, index)
        self.mlp = MLP(config, mesh)

    def forward(
        self, x: torch.Tensor, rotary: Rotary, context: AttentionContext, wanted: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run the layer.

        Args:
            x: ``[B, T, H]``, the same on every tensor-parallel rank.
            rotary: the rotary tables at the tokens' positions.
            context: the pass. Where ``wanted`` is given, its attention returns only these tokens.
            wanted: int64, indices of the tokens whose outputs are needed; None: all.

        Returns:
            ``[B, T, H]``, or ``[B, len(wanted), H]``.
        """
        normed = self.input_layernorm(x)
        attended = self.attention(normed, rotary, context)
        x = _select(x, wanted)
        if not self.parallel_residual:
            x = x + self.mesh.all_reduce(attended)
            return x + self.mesh.all_reduce(self.mlp(self.post_attention_layernorm(x)))
        fed = self.mlp(_select(normed, wanted) if self.tied else self.post_attention_layernorm(x))
        return x + self.mesh.all_reduce(attended + fed)


class Stage(nn.Module):
    """One pipeline stage's share of the network, built without storage.

    Args:
        config: the network.
        mesh: this rank's coordinates.
        vocab_size: rows of the embedding and the head, padding included.
        device: device of the parameters.
        precisions: number formats of the parameters, of the computation and of the cache.
    """

    def __init__(
        self, config: ModelConfig, mesh: Mesh, vocab_size: int, device: torch.device, precisions: Precisions
    ) -> None:
        super().__init__()
        self.config, self.mesh, self.vocab_size = config, mesh, vocab_size
        self.device, self.precisions = device, precisions
        layers = stage_layers(config.num_layers, mesh.pp, mesh.stage)
        self.first_layer = layers.start
        self.layers = nn.ModuleList(Layer(config, mesh, index) for index in range(len(layers)))
        if mesh.first_stage or (mesh.last_stage and config.tie_embeddings):
            self.word_embeddings = VocabParallelEmbedding(mesh, vocab_size, config.hidden_size)
        if mesh.first_stage and config.pos_emb == "learned":
            rows = config.max_position_embeddings
            self.position_embeddings = unfilled(rows, config.hidden_size)
        if mesh.last_stage:
            self.norm = build_norm(config)
            if not config.tie_embeddings:
                self.final_linear = ColumnParallelLinear(
                    mesh, config.hidden_size, mesh.tp * self._vocab_rows, bias=False
                )
        self._rotary: tuple[torch.Tensor, torch.Tensor] | None = None
        if config.pos_emb == "rotary":
            self._rotary = rotary_tables(config, config.max_context, device, self.compute_dtype)

    @property
    def weights_dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return DTYPES[self.precisions.weights]

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of the activations and the rotary tables."""
        return DTYPES[self.precisions.compute]

    @property
    def cache_dtype(self) -> torch.dtype:
        """Type of cached keys and values, and of queries and keys in a pass over rows."""
        return DTYPES[self.precisions.cache]

    @property
    def _vocab_rows(self) -> int:
        return -(-self.vocab_size // self.mesh.tp)

    def forward(self, ids: torch.Tensor, x: torch.Tensor | None, context: AttentionContext) -> torch.Tensor:
        """Run this stage's layers.

        Args:
            ids: int64 ``[B, T]``, token ids; used by the first stage only.
            x: ``[B, T, H]`` from the previous stage; None on the first.
            context: positions, and the cache or the rows.

        Returns:
            ``[B, T, H]`` for the next stage; on the last stage for ``logits`` or ``scores``, and of the tokens that
            ``context.wanted`` names only.
        """
        if x is None:
            x = self.word_embeddings(ids)
            if self.config.pos_emb == "learned":
                x = x + self.position_embeddings[context.positions]
        rotary = self._rotary_at(context)
        for index, layer in enumerate(self.layers):
            if self.mesh.last_stage and index == len(self.layers) - 1:
                x = layer(x, rotary, narrow_to_wanted(context), context.wanted)
            else:
                x = layer(x, rotary, context)
        return x

    def _rotary_at(self, context: AttentionContext) -> Rotary:
        """The rotary tables at the positions of a pass, in a shape that fits attention's queries and keys.

        ``[B, T, 1, 1, R]`` with a cache, ``[B, 1, W, R]`` over rows; None where the network has no rotary embedding.
        """
        if self._rotary is None:
            return None
        if context.rows is None:
            cos, sin = (table[context.positions][:, :, None, None] for table in self._rotary)
        else:
            positions = context.positions[0][context.rows.padded]
            cos, sin = (table[positions][:, None].to(context.rows.dtype) for table in self._rotary)
        return cos, sin

    def logits(self, x: torch.Tensor) -> torch.Tensor | None:
        """Logits of the next token, fp32 ``[..., V]``, on the sampling rank; None on the others.

        Args:
            x: ``[..., H]``, output of the last stage's layers at the positions to predict from.
        """
        scores = self.mesh.gather_last_dim(self._head(x))
        return None if scores is None else scores[..., : self.vocab_size].float()

    def scores(self, x: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Log-probabilities of ``targets`` over the (padded) vocabulary, on the sampling rank; None on the others.

        Only four numbers per position are sent between the ranks, not the logits.

        Args:
            x: ``[P, H]``, output of the last stage's layers at ``P`` positions.
            targets: int64 ``[P]``.

        Returns:
            The log-probabilities, fp32 ``[P]``, and whether each target is the most likely token, bool ``[P]``.
        """
        rows = vocab_shard(self.vocab_size, self.mesh.tp, self.mesh.tp_rank)
        logits = self._head(x).float()
        # So a shard that is all padding still has a finite maximum.
        logits[:, max(0, self.vocab_size - rows.start) :] = torch.finfo(logits.dtype).min
        best = logits.argmax(-1, keepdim=True)
        top = logits.gather(-1, best)
        # The logarithm of the sum of exponentials: log_softmax is one kernel, logsumexp is four.
        total = top - logits.log_softmax(-1).gather(-1, best)
        here = (targets >= rows.start) & (targets < rows.stop)
        own = logits.gather(-1, (targets - rows.start).masked_fill(~here, 0)[:, None])
        own = own.masked_fill(~here[:, None], -torch.inf)
        # Ids below 2^24 are exact in fp32.
        parts = self.mesh.gather_last_dim(torch.cat((top, total, own, best + rows.start), dim=-1))
        if parts is None:
            return None
        top, total, own, best = parts.view(-1, self.mesh.tp, 4).unbind(-1)
        winner = top.argmax(-1, keepdim=True)
        return own.amax(-1) - total.logsumexp(-1), best.gather(-1, winner)[:, 0] == targets

    def _head(self, x: torch.Tensor) -> torch.Tensor:
        """The final norm, and logits of this rank's part of the vocabulary: ``[..., H] -> [..., V / tp]``."""
        x = self.norm(x)
        logits: torch.Tensor = self.word_embeddings.logits(x) if self.config.tie_embeddings else self.final_linear(x)
        return logits

    def targets(self) -> dict[TensorKey, tuple[int, ...]]:
        """The shapes of this stage's parameters, by their keys in a checkpoint."""
        return {key: tuple(self.get_parameter(name).shape) for key, name in self._names().items()}

    def assign(self, key: TensorKey, tensor: torch.Tensor) -> None:
        """Set one parameter."""
        path, _, name = self._names()[key].rpartition(".")
        setattr(self.get_submodule(path), name, frozen(tensor))

    def pack(self) -> None:
        """Convert the linear layers' weights to the layout of their fastest kernel, once all are loaded."""
        for module in self.modules():
            if isinstance(module, ColumnParallelLinear | RowParallelLinear):
                module.pack()

    def randomize(self, seed: int) -> None:
        """Fill every parameter with small random numbers (norms with ones), for measuring sizes and speed only."""
        generator = torch.Generator(self.device).manual_seed(seed)
        for key, shape in self.targets().items():
            tensor = torch.empty(shape, dtype=self.weights_dtype, device=self.device)
            if "norm" in key.name and not key.name.endswith("bias"):
                tensor.fill_(1.0)
            else:
                tensor.normal_(0.0, 0.02, generator=generator)
            self.assign(key, tensor)

    def _names(self) -> dict[TensorKey, str]:
        """The names of this stage's parameters within the module, by their keys in a checkpoint."""
        config, found = self.config, {}
        for name, _ in self.named_parameters():
            head, _, tail = name.partition(".")
            if head == "layers":
                index, _, tail = tail.partition(".")
                key = TensorKey(2 + self.first_layer + int(index), tail)
            elif head == "word_embeddings":
                key = TensorKey(0, name)
            elif head == "position_embeddings":
                key = TensorKey(0, "position_embeddings.weight")
            elif head == "norm":
                key = TensorKey(config.num_layers + 3, name)
            else:
                key = TensorKey(config.num_layers + 4, name)
            found[key] = name
        return found
