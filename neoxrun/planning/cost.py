"""How long a split takes for its work, from bytes and operations. Pure arithmetic, no torch.

A step takes one token of each of ``n`` sequences through the network, or a chunk of prompts. On each GPU it

- reads the weights, and multiplies ``n`` rows with them: two times that overlap in part, so that their squares add up;
- reads the keys and values of the sequences;
- takes some time a layer, in which small kernels start and end;
- with tensor parallelism, adds up ``n`` rows over the ranks once or twice a layer.

A step takes the sum of the pipeline stages' times. (They do work on several groups of sequences at the same time, but
each group's step reads the weights again; what that gains has not been measured.) Replicas share the prompts.
Before that, ranks are started and load their weights. The shares below are what two H100 reach of their data sheet at
the shapes of GPT-NeoX-20B and Pythia-410M (docs/performance.md; tests/unit/planning/test_cost.py compares).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from neoxrun.config.limits import PREFILL_TOKENS
from neoxrun.config.precisions import DTYPE_BYTES
from neoxrun.config.settings import Precision
from neoxrun.config.tensors import WORD_EMBEDDINGS, local_counts
from neoxrun.planning.hardware import NETWORK, Link, Speed
from neoxrun.planning.request import Work
from neoxrun.planning.split import ModelSplit, Sizing

_BATCHES: Final = (1, 16, 64, 256)  # those of docs/performance.md
_MEMORY_SHARE: Final = 0.9  # of the listed bandwidth: weights
_CACHE_SHARE: Final = 0.5  # keys and values, in pages of 32 positions
_COMPUTE_SHARE: Final = 0.63  # of the listed operations: reading prompts
_LAYER_SECONDS: Final = 22e-6  # in a CUDA graph
_EAGER_LAYER_SECONDS: Final = 350e-6  # the host's time to launch a layer, which pipeline stages wait for
_STEP_REDUCES: Final = 3  # the embedding's, the logits' and the chosen tokens'
_WIDER: Final = 0.15  # a small all-reduce takes so much longer for each rank beyond two; not measured
_LOAD_BYTES: Final = 4.5e9  # that a rank loads in a second: two of the 20B, from the page cache
_START_SECONDS: Final = 2.0  # that several ranks take to start more than one does: torchrun (the demo on two cores)


class Estimate(NamedTuple):
    """What a split gives.

    Attributes:
        split: the sizes.
        sequences: that a replica works on at a time, at most; for scoring, all of its texts.
        loading: seconds to start the ranks and load the weights.
        working: seconds for all of the work after that.
        tokens_per_second: of all replicas meanwhile: new ones, or scored ones.
    """

    split: ModelSplit
    sequences: int
    loading: float
    working: float
    tokens_per_second: float

    @property
    def seconds(self) -> float:
        """For all of it."""
        return self.loading + self.working


class Rate(NamedTuple):
    """How fast answers are written.

    Attributes:
        sequences: at a time, over all replicas.
        tokens_per_second: of all of them together.
    """

    sequences: int
    tokens_per_second: float


@dataclass(frozen=True)
class CostModel:
    """The time of some work on GPUs that are alike.

    Attributes:
        sizing: the model, its number formats and the context.
        speed: of each GPU.
        work: what is to be done, within the context.
        most_sequences: at a time, in each replica.
        nnodes: hosts; with several, the network is between pipeline stages.
    """

    sizing: Sizing
    speed: Speed
    work: Work
    most_sequences: int
    nnodes: int = 1

    def estimate(self, split: ModelSplit, tokens: int) -> Estimate:
        """What a split gives whose cache has room for ``tokens`` tokens."""
        work = self.work
        rank = _Rank(self, split)
        loading = max(need.weights_bytes for need in self.sizing.needs(split)) / _LOAD_BYTES
        loading += _START_SECONDS * (split.world_size > 1)
        share = -(-work.prompts // split.replicas)  # of the prompts, for the replica that has most of them
        working = rank.reading_seconds(share * work.prompt_tokens)
        if not work.new_tokens:
            return Estimate(split, share, loading, working, work.prompts * work.prompt_tokens / working)
        # Half of the answer is written on average while a sequence is in the cache.
        cached = work.prompt_tokens + work.new_tokens // 2
        sequences = min(self.most_sequences, max(1, self.sizing.sequences(tokens, cached)))
        written = share * work.new_tokens
        steps = max(work.longest_answer, written / sequences)
        working += steps * rank.step_seconds(written / steps, cached)
        return Estimate(split, sequences, loading, working, work.prompts * work.new_tokens / working)

    def rates(self, split: ModelSplit, tokens: int) -> tuple[Rate, ...]:
        """How fast answers are written, for as many sequences as a cache of ``tokens`` tokens has room for.

        Their prompts have been read, and half of each answer is written. Nothing where texts are only scored.
        """
        if not self.work.new_tokens:
            return ()
        rank, cached = _Rank(self, split), self.work.prompt_tokens + self.work.new_tokens // 2
        room = min(self.most_sequences, max(1, self.sizing.sequences(tokens, cached)))
        shares = {count: -(-count // split.replicas) for count in _BATCHES}  # of the replica that has most of them
        return tuple(
            Rate(count, count / rank.step_seconds(share, cached)) for count, share in shares.items() if share <= room
        )


@dataclass(frozen=True)
class _Rank:
    """One rank of every stage, one after the other, as a step goes through them."""

    cost: CostModel
    split: ModelSplit

    def reading_seconds(self, tokens: int) -> float:
        """To read so many tokens of prompts, or to score them, in as few passes as possible."""
        passes = -(-tokens // PREFILL_TOKENS)
        return passes * self.step_seconds(tokens / passes, 0)

    def step_seconds(self, rows: float, cached: int) -> float:
        """Of a pass of ``rows`` tokens, each of which sees ``cached`` others in the cache."""
        split, layers, speed = self.split, self.cost.sizing.model.num_layers, self.cost.speed
        bandwidth = speed.bytes_per_second
        operations = 2 * rows * self._parameters / (speed.flops(self._compute) * _COMPUTE_SHARE)
        seconds = math.hypot(self._weights_bytes / (bandwidth * _MEMORY_SHARE), operations)
        seconds += rows * cached * self._token_bytes / (bandwidth * _CACHE_SHARE)
        seconds += layers * _LAYER_SECONDS
        if split.tp > 1:
            each = 1 if self.cost.sizing.model.gpt_j_residual else 2
            seconds += (each * layers + _STEP_REDUCES) * self._reduce_seconds(rows)
        if split.pp > 1:
            link = speed.link if self.cost.nnodes == 1 else NETWORK
            seconds += split.pp * self._link_seconds(link, rows)  # the last hop takes the tokens back
            seconds = max(seconds, layers * _EAGER_LAYER_SECONDS)
        return seconds

    def _reduce_seconds(self, rows: float) -> float:
        """An all-reduce of ``rows`` rows of the residual stream, in a ring that carries each number almost twice."""
        ranks, link = self.split.tp, self.cost.speed.link
        wider = 1 + _WIDER * (ranks - 2)
        ring = 2 * (ranks - 1) / ranks
        return link.seconds * wider + ring * self._row_bytes * rows / link.bytes_per_second

    def _link_seconds(self, link: Link, rows: float) -> float:
        return link.seconds + self._row_bytes * rows / link.bytes_per_second

    @property
    def _compute(self) -> Precision:
        return self.cost.sizing.precisions.compute

    @property
    def _row_bytes(self) -> int:
        return self.cost.sizing.model.hidden_size * DTYPE_BYTES[self._compute]

    @property
    def _token_bytes(self) -> int:
        return sum(need.kv_bytes_per_token for need in self.cost.sizing.needs(self.split))

    @cached_property
    def _weights_bytes(self) -> int:
        """Weights that a step reads: all but the embedding, unless the LM head is the same tensor."""
        sizing = self.cost.sizing
        held = sum(need.weights_bytes for need in sizing.needs(self.split))
        if sizing.model.tie_embeddings and self.split.pp == 1:
            return held
        embedding = local_counts(sizing.model, sizing.vocab_size, self.split.tp)[WORD_EMBEDDINGS]
        return held - embedding * DTYPE_BYTES[sizing.precisions.weights]

    @property
    def _parameters(self) -> float:
        return self._weights_bytes / DTYPE_BYTES[self.cost.sizing.precisions.weights]
