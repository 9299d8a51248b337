"""The least time that a machine needs for a case: floors to compare measured times with. Pure arithmetic, no torch.

A step reads the weights at least once, and computes the products that its tokens need. So it takes at least as long as
the slower of the two, at the bandwidth of the memory and at the rate of a large matrix product. Reading the cache,
sampling, and what ranks tell each other come on top: no run reaches its floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from neoxrun.benchmark.cases import Case
from neoxrun.config.limits import PREFILL_TOKENS
from neoxrun.config.precisions import DTYPE_BYTES
from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.config.tensors import local_counts

Bound = Literal["reading", "computing"]


@dataclass(frozen=True)
class Hardware:
    """One device, measured.

    Attributes:
        bytes_per_second: of a large sum, or a large copy where that is faster.
        operations_per_second: of a large matrix product, in the number format of the computation.
    """

    bytes_per_second: float
    operations_per_second: float


@dataclass(frozen=True)
class Effort:
    """What has to be computed.

    Attributes:
        steps: how often the weights are read, at the least.
        tokens: that go through the network.
        outputs: tokens that are chosen.
        attended: positions that the tokens see, added up.
    """

    steps: int
    tokens: int
    outputs: int
    attended: int


@dataclass(frozen=True)
class Shape:
    """The network, and how it is divided.

    Attributes:
        model: the network.
        vocab_size: rows of the head, padding included.
        weights: number format of the weights.
        tp, pp: ranks of a stage, and stages.
    """

    model: ModelConfig
    vocab_size: int
    weights: Precision
    tp: int = 1
    pp: int = 1


@dataclass(frozen=True)
class Floor:
    """The least seconds, and what decides them."""

    seconds: float
    bound: Bound


def decode_step(case: Case) -> Effort:
    """A step in the middle of decoding: one token of each sequence."""
    attended = sum(prompt + new // 2 for prompt, new in zip(case.prompts, case.new, strict=True))
    return Effort(1, case.batch, case.batch, attended)


def whole_case(case: Case, rows: int) -> Effort:
    """All of a case.

    Args:
        case: what is computed.
        rows: most sequences at a time.
    """
    # The last token of an answer is not computed any more.
    lengths = [prompt + new - 1 for prompt, new in zip(case.prompts, case.new, strict=True)]
    tokens, outputs = sum(lengths), sum(case.new)
    steps = max(max(case.new), -(-outputs // rows), -(-tokens // PREFILL_TOKENS))
    return Effort(steps, tokens, outputs, sum(length * (length + 1) // 2 for length in lengths))


def read_bytes(shape: Shape) -> int:
    """Bytes of weights that one rank of each stage reads in a step, added up.

    A token passes the stages one after the other. Groups of sequences that are in different stages at the same time
    change nothing: each group is smaller by as much as there are more of them, and each reads all weights.

    Of the embeddings a step reads a row for each token. A tied word embedding is also the head, and read whole.
    """
    model = shape.model
    rows_only = {"position_embeddings.weight"} | (set() if model.tie_embeddings else {"word_embeddings.weight"})
    counts = local_counts(model, shape.vocab_size, shape.tp)
    return sum(count for key, count in counts.items() if key.name not in rows_only) * DTYPE_BYTES[shape.weights]


def operations(shape: Shape, effort: Effort) -> int:
    """Multiplications and additions of the whole network.

    A product of ``[T, I]`` and ``[I, O]`` is ``2 T I O`` operations, attention over ``S`` positions ``4 S H`` for each
    token and layer. In the last layer only the tokens with an output go through more than query, key and value; its
    attention is not counted.
    """
    model = shape.model
    hidden, layers = model.hidden_size, model.num_layers
    query_key_value = 6 * hidden * hidden
    others = 2 * hidden * hidden + 4 * hidden * model.intermediate_size
    linear = effort.tokens * (layers * query_key_value + (layers - 1) * others)
    last = effort.outputs * (others + 2 * hidden * shape.vocab_size)
    return linear + last + 4 * hidden * effort.attended * (layers - 1)


def floor_of(shape: Shape, effort: Effort, hardware: Hardware) -> Floor:
    """The least time for some effort on ``tp x pp`` such devices."""
    reading = effort.steps * read_bytes(shape) / hardware.bytes_per_second
    computing = operations(shape, effort) / (hardware.operations_per_second * shape.tp * shape.pp)
    return Floor(reading, "reading") if reading >= computing else Floor(computing, "computing")
