"""What a GPT-NeoX checkpoint holds, and how its tensor-parallel shards become a target rank's tensors.

One table, ``parameters``: every tensor of a model with its whole shape and the rule that joins its shards.
Pure arithmetic.

Places are GPT-NeoX's layer numbers: 0 is the embedding, 2 to L+1 the transformer layers, L+3 the final norm
and L+4 the output layer. Names are those of the released GPT-NeoX-20B; ``canonical`` maps the newer ones onto
them.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from neoxrun.config.settings import ModelConfig
from neoxrun.parallel.partition import vocab_shard


class TensorKey(NamedTuple):
    """A tensor of the model: GPT-NeoX's layer number, and the tensor's name in the released 20B."""

    place: int
    name: str


class Rule(Enum):
    """How the shards of one tensor become the whole tensor."""

    CAT_0 = "concatenate along dim 0"
    CAT_1 = "concatenate along dim 1"
    SUM = "sum"
    MEAN = "mean"
    ONE = "take one"

    @property
    def dim(self) -> int | None:
        """The dim that is divided over ranks; None for tensors that every rank holds in full."""
        return {Rule.CAT_0: 0, Rule.CAT_1: 1}.get(self)


class Parameter(NamedTuple):
    """One tensor of the whole model: its shape over all ranks, and the rule that joins its shards."""

    shape: tuple[int, ...]
    rule: Rule


# Buffers that checkpoints of some ages hold beside the weights. They are recomputed, never read.
IGNORED = frozenset({"attention.rotary_emb.inv_freq", "attention.bias", "attention.masked_bias"})

VOCABULARY = frozenset({"word_embeddings.weight", "final_linear.weight"})


def places(num_layers: int, tied: bool) -> list[int]:
    """The layer numbers that hold weights; a ``tied`` model has no output layer of its own."""
    return [0, *range(2, num_layers + 2), num_layers + 3] + ([] if tied else [num_layers + 4])


def canonical(name: str) -> str:
    """A layer's tensor name of any GPT-NeoX generation as the released 20B spells it."""
    return name.replace("mlp.linear1.", "mlp.dense_h_to_4h.").replace("mlp.linear2.", "mlp.dense_4h_to_h.")


def _norm(name: str, config: ModelConfig) -> dict[str, Parameter]:
    # Each rank trains its own copy of a norm and the copies drift apart: the mean is the best single one.
    parts = ("scale",) if config.norm == "rmsnorm" else ("weight", "bias")
    return {f"{name}.{part}": Parameter((config.hidden_size,), Rule.MEAN) for part in parts}


def _linear(name: str, rows: int, cols: int, rule: Rule, bias: Rule | None) -> dict[str, Parameter]:
    table = {f"{name}.weight": Parameter((rows, cols), rule)}
    if bias is not None:
        table[f"{name}.bias"] = Parameter((rows,), bias)
    return table


def parameters(config: ModelConfig, vocab_rows: int) -> dict[TensorKey, Parameter]:
    """Every tensor of the model that ``config`` describes, in the order of the layers.

    Args:
        config: the network.
        vocab_rows: rows of the checkpoint's (padded) vocabulary.
    """
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_layers
    # With the parallel residual every rank adds its own bias before the one all-reduce: the model's bias is
    # their sum. Otherwise the bias is added once, after the reduce, and all ranks hold the same one.
    row_bias = Rule.SUM if config.gpt_j_residual else Rule.ONE
    attention = config.use_bias_in_attn_linear
    mlp = config.use_bias_in_mlp
    layer = {
        **_norm("input_layernorm", config),
        **_linear("attention.query_key_value", 3 * hidden, hidden, Rule.CAT_0, Rule.CAT_0 if attention else None),
        **_linear("attention.dense", hidden, hidden, Rule.CAT_1, row_bias if attention else None),
        **_norm("post_attention_layernorm", config),
        **_linear("mlp.dense_h_to_4h", inner, hidden, Rule.CAT_0, Rule.CAT_0 if mlp else None),
        **_linear("mlp.dense_4h_to_h", hidden, inner, Rule.CAT_1, row_bias if mlp else None),
    }
    vocabulary = Parameter((vocab_rows, hidden), Rule.CAT_0)

    table = {TensorKey(0, "word_embeddings.weight"): vocabulary}
    if config.pos_emb == "learned":
        positions = Parameter((config.max_position_embeddings, hidden), Rule.MEAN)
        table[TensorKey(0, "position_embeddings.weight")] = positions
    for place in range(2, layers + 2):
        table |= {TensorKey(place, name): parameter for name, parameter in layer.items()}
    table |= {TensorKey(layers + 3, name): parameter for name, parameter in _norm("norm", config).items()}
    if not config.tie_embeddings:
        table[TensorKey(layers + 4, "final_linear.weight")] = vocabulary
    return table


def local_shape(name: str, parameter: Parameter, tp_size: int) -> tuple[int, ...]:
    """The shape of one rank's share when the tensor is divided over ``tp_size`` ranks.

    Vocabularies that do not divide are padded; everything else has to divide.
    """
    shape, dim = list(parameter.shape), parameter.rule.dim
    if dim is not None:
        assert name in VOCABULARY or shape[dim] % tp_size == 0, f"{name} {shape} does not divide over {tp_size} ranks"
        shape[dim] = len(vocab_shard(shape[dim], tp_size, 0))
    return tuple(shape)


class Piece(NamedTuple):
    """``length`` rows (or columns) that go from ``start`` in shard ``shard`` to ``at`` in the target."""

    shard: int
    start: int
    at: int
    length: int


def pieces(size: int, source_tp: int, tp_size: int, tp_rank: int) -> list[Piece]:
    """Where the rows (or columns) of target rank ``tp_rank`` of ``tp_size`` lie in ``source_tp`` equal
    shards.

    Args:
        size: rows (or columns) of the whole tensor.
        source_tp: shards that hold it; divides ``size``.
        tp_size: target ranks; shares are equal, the last ones may reach beyond ``size`` (vocabulary padding).
        tp_rank: the target rank.

    Returns:
        The pieces in order. Together they cover the target's share, up to padding.
    """
    held = size // source_tp
    share = vocab_shard(size, tp_size, tp_rank)
    stop = min(share.stop, size)
    result = []
    for shard in range(source_tp):
        first, last = max(share.start, shard * held), min(stop, (shard + 1) * held)
        if first < last:
            result.append(Piece(shard, first - shard * held, first - share.start, last - first))
    return result


def contributors(rule: Rule, source_tp: int, tp_size: int, tp_rank: int) -> range:
    """The shards from which target rank ``tp_rank`` makes its copy of a tensor that is not divided.

    At the checkpoint's own tensor-parallel size each rank keeps its own, bit for bit, as GPT-NeoX does. At
    another size, the bias that ranks add up is given to rank 0; the others get none and hold zeros.
    """
    if tp_size == source_tp:
        return range(tp_rank, tp_rank + 1)
    if rule is Rule.ONE:
        return range(1)
    if rule is Rule.SUM and tp_rank > 0:
        return range(0)
    return range(source_tp)
