"""What a model needs: parameters, KV cache and workspace of every rank, in bytes. Pure arithmetic, no torch.

A replica of the model is ``tensor * pipeline`` ranks. All tensor-parallel ranks of one stage need the same, so
the functions here answer per stage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from neoxrun.config.limits import LOGIT_ROWS, PREFILL_TOKENS
from neoxrun.config.precisions import DTYPE_BYTES, DeviceKind, Precisions
from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.config.tensors import FIRST_LAYER, WORD_EMBEDDINGS, local_counts
from neoxrun.parallel.partition import stage_layers

# Of the free memory, left unused for fragmentation, for other programs, and on a GPU for CUDA graphs: about 25 MB for
# each of the sizes in engine.graphs, less than 0.5 GB for all of them.
MARGIN = 0.05

GPU_PAGE = 32
"""Positions of a page of the key-value cache on a GPU."""

MAX_BATCH: dict[DeviceKind, int] = {
    "cuda": 256,
    "cpu": 64,
}  # sequences at a time, unless --batch-size says more

# What a process uses of a GPU in addition to its tensors: context, kernels and cuBLAS's workspaces came to 727 MB on
# an H100 (driver 580, torch 2.11) after prefills in fp16 and fp32.
CUDA_RANK_BYTES = 750 * 10**6
NCCL_BYTES = 400 * 10**6
CPU_RANK_BYTES = 400 * 10**6
CUDA_HOST_BYTES = 10**9

# Tokens of a pass that only scores. A CPU is fastest where they fit its caches; a GPU is busy with so many, even where
# the model is small.
_MOST_SCORED: dict[DeviceKind, int] = {"cpu": PREFILL_TOKENS // 4, "cuda": 8 * PREFILL_TOKENS}
_MASK_BYTES = 6  # for each pair of tokens of a row: the mask of who sees whom, as it is made and as attention needs it


def usable_bytes(free_bytes: int) -> int:
    """How much of a device's free memory a plan may fill."""
    return int(free_bytes * (1 - MARGIN))


def free_bytes_for(usable: int) -> int:
    """The free memory of which a plan may fill ``usable`` bytes."""
    return math.ceil(usable / (1 - MARGIN))


@dataclass(frozen=True)
class Paging:
    """How the key-value cache is divided: a sequence has whole pages, each of so many consecutive positions.

    Attributes:
        size: positions of a page.
        spare: pages that no sequence may have: on a GPU one, for what only fills a batch up.
    """

    size: int
    spare: int

    def pages_of(self, length: int) -> int:
        """Pages of a sequence of ``length`` tokens."""
        return -(-length // self.size)

    def pages_in(self, cache_bytes: int, token_bytes: int) -> int:
        """Pages for sequences in ``cache_bytes``, at ``token_bytes`` a position; negative where none fits."""
        return cache_bytes // (token_bytes * self.size) - self.spare

    def positions(self, pages: int) -> int:
        """Positions that the cache has memory for, with ``pages`` for sequences."""
        return (pages + self.spare) * self.size


def paging_of(kind: DeviceKind, length: int, size: int | None = None) -> Paging:
    """The pages of a cache for sequences of up to ``length`` tokens; ``size`` positions of each if it is given.

    On the CPU a page is as long as a sequence, so that no step gathers copies.
    """
    return Paging(size or (GPU_PAGE if kind == "cuda" else length), int(kind == "cuda"))


@dataclass(frozen=True)
class RankNeed:
    """What one rank of a pipeline stage holds.

    Attributes:
        layers: its transformer layers.
        weights_bytes: its shard of the parameters.
        workspace_bytes: activations, logits and what the runtime needs.
        kv_bytes_per_token: KV cache of one token of one sequence.
    """

    layers: range
    weights_bytes: int
    workspace_bytes: int
    kv_bytes_per_token: int

    def total_bytes(self, positions: int) -> int:
        """Everything, with a KV cache of ``positions`` positions."""
        return self.weights_bytes + self.workspace_bytes + self.kv_bytes_per_token * positions


@lru_cache(maxsize=128)
def _layer_counts(model: ModelConfig, vocab_size: int, tensor: int) -> Mapping[int, int]:
    """How many numbers one of ``tensor`` ranks holds of each layer, by GPT-NeoX's layer number."""
    totals: Counter[int] = Counter()
    for key, count in local_counts(model, vocab_size, tensor).items():
        totals[key.layer] += count
    return totals


def stage_parameters(model: ModelConfig, vocab_size: int, tensor: int, pipeline: int) -> list[int]:
    """Parameters of one rank of each stage, from the table of the model's tensors.

    The first stage has the embeddings, the last one the final norm and the LM head. A head that is tied to
    the word embedding is stored a second time as soon as there is more than one stage.

    Args:
        model: the network.
        vocab_size: rows of the word embedding (padded as in the checkpoint).
        tensor: tensor-parallel size.
        pipeline: number of stages.
    """
    layers = _layer_counts(model, vocab_size, tensor)
    last = model.num_layers + FIRST_LAYER
    stages = [
        sum(layers[FIRST_LAYER + index] for index in stage_layers(model.num_layers, pipeline, stage))
        for stage in range(pipeline)
    ]
    stages[0] += layers[0]
    stages[-1] += sum(count for number, count in layers.items() if number >= last)
    if pipeline > 1 and model.tie_embeddings:
        stages[-1] += local_counts(model, vocab_size, tensor)[WORD_EMBEDDINGS]
    return stages


def model_parameters(model: ModelConfig, vocab_size: int) -> int:
    """Parameters of the whole model, each counted once."""
    return sum(local_counts(model, vocab_size, 1).values())


def kv_cache_bytes(model: ModelConfig, *, layers: int, tensor: int, tokens: int, precision: Precision) -> int:
    """Bytes of the keys and values of ``tokens`` tokens on one rank.

    Args:
        model: the network.
        layers: transformer layers of the rank.
        tensor: tensor-parallel size.
        tokens: tokens of all sequences together.
        precision: the cache's number format.
    """
    return 2 * layers * model.hidden_size // tensor * tokens * DTYPE_BYTES[precision]


def prefill_tokens(context: int) -> int:
    """Most tokens of one forward pass: the scheduler's limit, or one prompt that fills the context."""
    return max(PREFILL_TOKENS, context)


def _workspace_bytes(
    model: ModelConfig, vocab_size: int, tensor: int, *, is_last: bool, compute: Precision, context: int
) -> int:
    """Activations of the largest forward pass, as if none of a layer's tensors were freed before its end.

    For ``T = prefill_tokens(context)`` tokens a layer holds, in the type of the computation: the residual stream, the
    normed input and the outputs of attention and MLP (``4 T H``, not split by tensor parallelism); query, key
    and value, their rotated versions and the result of attention (``7 T H / tp``); the MLP's inner activation
    before and after GELU (``2 T I / tp``). scaled_dot_product_attention never materialises the scores; scoring on a
    CPU does, for short rows in passes of a quarter of the tokens. The last stage adds ``LOGIT_ROWS`` rows of fp32
    logits twice: as computed, and as the sampler's probabilities.
    """
    workspace = prefill_tokens(context) * _token_bytes(model, tensor, compute)
    if is_last:
        workspace += 2 * LOGIT_ROWS * vocab_size * DTYPE_BYTES["fp32"]
    return workspace


def _token_bytes(model: ModelConfig, tensor: int, compute: Precision) -> int:
    width = 4 * model.hidden_size + (7 * model.hidden_size + 2 * model.intermediate_size) // tensor
    return width * DTYPE_BYTES[compute]


def scoring_tokens(model: ModelConfig, *, tensor: int, compute: Precision, kind: DeviceKind, spare: int) -> int:
    """Most tokens of a pass that only scores, on one rank.

    Args:
        model: the network.
        tensor: tensor-parallel size.
        compute: number format of activations.
        kind: of the device.
        spare: bytes for the key-value cache, which scoring does without.
    """
    # Query, key, value and result once more for attention, where rows are padded by a quarter at most; counted twice.
    padded = 8 * model.hidden_size // tensor * DTYPE_BYTES[compute]
    per_token = _token_bytes(model, tensor, compute) + padded + _MASK_BYTES * PREFILL_TOKENS
    return min(_MOST_SCORED[kind], PREFILL_TOKENS + spare // per_token)


@lru_cache(maxsize=512)
def stage_needs(
    model: ModelConfig,
    vocab_size: int,
    *,
    tensor: int,
    pipeline: int,
    precisions: Precisions,
    kind: DeviceKind,
    context: int,
) -> tuple[RankNeed, ...]:
    """What one rank of every stage holds, when prompts may be ``context`` tokens long."""
    if kind == "cpu":
        runtime = CPU_RANK_BYTES
    else:
        runtime = CUDA_RANK_BYTES + (NCCL_BYTES if tensor * pipeline > 1 else 0)
    needs = []
    for stage, count in enumerate(stage_parameters(model, vocab_size, tensor, pipeline)):
        layers = stage_layers(model.num_layers, pipeline, stage)
        workspace = _workspace_bytes(
            model,
            vocab_size,
            tensor,
            is_last=stage == pipeline - 1,
            compute=precisions.compute,
            context=context,
        )
        needs.append(
            RankNeed(
                layers=layers,
                weights_bytes=count * DTYPE_BYTES[precisions.weights],
                workspace_bytes=runtime + workspace,
                kv_bytes_per_token=kv_cache_bytes(
                    model, layers=len(layers), tensor=tensor, tokens=1, precision=precisions.cache
                ),
            )
        )
    return tuple(needs)


def host_peak_bytes(
    model: ModelConfig,
    vocab_size: int,
    needs: tuple[RankNeed, ...],
    tensor: int,
    weights: Precision,
    kind: DeviceKind,
) -> int:
    """Peak host memory of one rank while it loads: one layer, or the embedding, at a time passes through.

    On the CPU the rank's shard stays there too.
    """
    vocabulary = local_counts(model, vocab_size, tensor)[WORD_EMBEDDINGS]
    piece = max(_layer_counts(model, vocab_size, tensor)[FIRST_LAYER], vocabulary) * DTYPE_BYTES[weights]
    if kind == "cuda":
        return piece + CUDA_HOST_BYTES
    return piece + max(need.weights_bytes for need in needs) + CPU_RANK_BYTES
