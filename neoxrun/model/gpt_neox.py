"""The GPT-NeoX network (Black et al., GPT-NeoX-20B, 2022): one pipeline stage of it, on one tensor-parallel rank.

A pass begins in ``Stage.forward``, which runs the stage's layers. On the last stage ``head`` and ``gather_logits``, or
``scores``, follow.

Shapes: ``T`` tokens, ``P`` of them with an output, ``H`` hidden, ``V`` vocabulary. Submodules have the names of the
checkpoint's tensors, so that the loader needs no table of the network.
"""

from __future__ import annotations

import torch
from torch import nn

from neoxrun.config.precisions import Precisions
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import TensorKey
from neoxrun.model.batch import Batch
from neoxrun.model.dtypes import DTYPES
from neoxrun.model.layers import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding, frozen, unfilled
from neoxrun.model.norms import build_norm
from neoxrun.model.residual import ResidualStream
from neoxrun.model.rotary import RotaryTables, rotary_tables
from neoxrun.model.training_form import TrainingForm, TrainingStream
from neoxrun.model.transformer_layer import Layer
from neoxrun.parallel.mesh import Mesh
from neoxrun.parallel.partition import stage_layers, vocab_shard


class Stage(nn.Module):
    """One pipeline stage's share of the network, built without storage.

    Args:
        config: the network.
        mesh: this rank's coordinates.
        vocab_size: rows of the embedding and the head, padding included.
        device: device of the parameters.
        precisions: number formats of the parameters, of the computation and of the cache.
        form: what it has to be trained, in ``training.network``, instead of run; None: it is run.
    """

    def __init__(
        self,
        config: ModelConfig,
        mesh: Mesh,
        vocab_size: int,
        device: torch.device,
        precisions: Precisions,
        form: TrainingForm | None = None,
    ) -> None:
        super().__init__()
        self.config, self.mesh, self.vocab_size, self.form = config, mesh, vocab_size, form
        self.device, self.precisions = device, precisions
        layers = stage_layers(config.num_layers, mesh.pp, mesh.stage)
        self.first_layer = layers.start
        self.residual = ResidualStream(mesh) if form is None else TrainingStream(form)
        # GPT-NeoX's ranks each train a bias, so that their sum moves tp times as fast; here one is trained.
        biases = config.gpt_j_residual and form is None
        self.layers = nn.ModuleList(
            Layer(config, mesh, index, self.residual, bias_on_every_rank=biases) for index in range(len(layers))
        )
        if mesh.first_stage or (mesh.last_stage and config.tie_embeddings):
            reduce = mesh.all_reduce if form is None else form.collectives.reduce
            self.word_embeddings = VocabParallelEmbedding(mesh, vocab_size, config.hidden_size, reduce)
        if mesh.first_stage and config.pos_emb == "learned":
            rows = config.max_position_embeddings
            self.position_embeddings = unfilled(rows, config.hidden_size)
        if mesh.last_stage:
            self.norm = build_norm(config)
            if not config.tie_embeddings:
                self.final_linear = ColumnParallelLinear(
                    mesh, config.hidden_size, mesh.tp * self._vocab_rows, bias=False
                )
        self.rotary: RotaryTables | None = None
        if config.pos_emb == "rotary":
            self.rotary = rotary_tables(config, config.max_context, device, self.compute_dtype)

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

    def forward(self, batch: Batch, received: torch.Tensor | None = None) -> torch.Tensor:
        """Run this stage's layers.

        Args:
            batch: the pass; ids are read by the first stage only.
            received: ``[T, H]`` from the previous stage; None on the first.

        Returns:
            ``[T, H]`` for the next stage; on the last ``[P, H]`` after the final norm, for ``head`` and ``scores``.
        """
        x = self.embed(batch.ids, batch.positions) if received is None else received
        parts: tuple[torch.Tensor, ...] = ()
        for index, layer in enumerate(self.layers):
            last = self.mesh.last_stage and index == len(self.layers) - 1
            x, parts = layer(x, parts, batch.attention, batch.outputs if last else None)
        if self.mesh.last_stage:
            _, (normed,) = self.residual.add_and_normalize(x, parts, (self.norm,))
            return normed
        return self.residual.add(x, parts)

    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the layers begin with: ``[T] -> [T, H]``, of tokens at their positions."""
        x: torch.Tensor = self.word_embeddings(ids)
        return x + self.position_embeddings[positions] if self.config.pos_emb == "learned" else x

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of this rank's part of the vocabulary: ``[P, H] -> [P, V / tp]``, of the last stage's output."""
        logits: torch.Tensor = self.word_embeddings.logits(x) if self.config.tie_embeddings else self.final_linear(x)
        return logits

    def gather_logits(self, local: torch.Tensor) -> torch.Tensor | None:
        """Logits of the next token, fp32 ``[P, V]``, on the sampling rank; None on the others.

        Args:
            local: ``[P, V / tp]``, as ``head`` returns them.
        """
        logits = self.mesh.gather_last_dim(local)
        return None if logits is None else logits[:, : self.vocab_size].float()

    def scores(
        self, x: torch.Tensor, targets: torch.Tensor, top: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Log-probabilities of ``targets`` over the (padded) vocabulary, on the sampling rank; None on the others.

        Only 4 + 2 x ``top`` numbers per position are sent between the ranks, not the logits.

        Args:
            x: ``[P, H]``, output of the last stage.
            targets: int64 ``[P]``.
            top: how many of the most likely tokens to name, at most ``V``.

        Returns:
            The log-probabilities, fp32 ``[P]``; whether each target is the most likely token, bool ``[P]``; the ids of
            the most likely tokens, int64 ``[P, top]``, the most likely first; and their log-probabilities.
        """
        rows = vocab_shard(self.vocab_size, self.mesh.tp, self.mesh.tp_rank)
        logits = self.head(x).float()
        # So a shard that is all padding still has a finite maximum.
        logits[:, max(0, self.vocab_size - rows.start) :] = torch.finfo(logits.dtype).min
        best = logits.argmax(-1, keepdim=True)
        highest = logits.gather(-1, best)
        # The logarithm of the sum of exponentials: log_softmax is one kernel, logsumexp is four.
        total = highest - logits.log_softmax(-1).gather(-1, best)
        here = (targets >= rows.start) & (targets < rows.stop)
        own = logits.gather(-1, (targets - rows.start).masked_fill(~here, 0)[:, None])
        own = own.masked_fill(~here[:, None], -torch.inf)
        numbers = [highest, total, own, best + rows.start]
        count = min(top, logits.shape[-1])
        if count:
            values, ids = logits.topk(count)
            numbers += [values, ids + rows.start]
        # Ids below 2^24 are exact in fp32.
        parts = self.mesh.gather_last_dim(torch.cat(numbers, dim=-1))
        if parts is None:
            return None
        parts = parts.view(len(targets), self.mesh.tp, 4 + 2 * count)
        highest, total, own, best = parts[..., :4].unbind(-1)
        winner = highest.argmax(-1, keepdim=True)
        norm = total.logsumexp(-1, keepdim=True)
        values, ids = (parts[..., 4 + start : 4 + start + count].flatten(1) for start in (0, count))
        if count:
            values, which = values.topk(min(top, self.vocab_size))
            ids = ids.gather(-1, which)
        greedy = best.gather(-1, winner)[:, 0] == targets
        return own.amax(-1) - norm[:, 0], greedy, ids.long(), values - norm

    def keyed_parameters(self) -> dict[TensorKey, nn.Parameter]:
        """This stage's parameters, by their keys in a checkpoint."""
        return {key: self.get_parameter(name) for key, name in self._names().items()}

    def targets(self) -> dict[TensorKey, tuple[int, ...]]:
        """The shapes of this stage's parameters, by their keys in a checkpoint."""
        return {key: tuple(self.get_parameter(name).shape) for key, name in self._names().items()}

    def assign(self, key: TensorKey, tensor: torch.Tensor) -> None:
        """Set one parameter; or give a linear layer a bias that the configuration does not have, as folded norms do."""
        names = self._names()
        if key not in names:
            weight = key._replace(name=f"{key.name.removesuffix('.bias')}.weight")
            names[key] = f"{names[weight].removesuffix('.weight')}.bias"
        path, _, name = names[key].rpartition(".")
        setattr(self.get_submodule(path), name, frozen(tensor))

    def pack(self) -> None:
        """Convert the linear layers' weights, once, to the layout that is the fastest for several tokens."""
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
