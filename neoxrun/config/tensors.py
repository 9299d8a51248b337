"""The tensors of a GPT-NeoX model: their names, their shapes, and how tensor parallelism divides them.

One table, ``parameters``, from which the network, the loader, the writers and the planner's bytes all follow. No torch.

Layer numbers are GPT-NeoX's: 0 is the embedding, 2 to L+1 are the transformer layers, L+3 is the final norm and L+4 the
output layer. Names are those of the released GPT-NeoX-20B; ``canonical`` maps the newer ones onto them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from neoxrun.config.settings import ModelConfig


class TensorKey(NamedTuple):
    """A tensor of the model: GPT-NeoX's layer number, and the tensor's name in the released 20B."""

    layer: int
    name: str


class Parameter(NamedTuple):
    """One tensor of the whole model.

    Attributes:
        shape: over all tensor-parallel ranks.
        dim: the dim that is divided over them; None where every rank holds the tensor in full.
        used: False for a tensor that the files hold and the network does not need.
    """

    shape: tuple[int, ...]
    dim: int | None
    used: bool = True


FIRST_LAYER: Final = 2
"""The number of the first transformer layer."""

WORD_EMBEDDINGS: Final = TensorKey(0, "word_embeddings.weight")

# Buffers that older checkpoints hold next to the weights. They are recomputed, never read.
IGNORED: Final = frozenset({"attention.rotary_emb.inv_freq", "attention.bias", "attention.masked_bias"})

VOCABULARY: Final = frozenset({"word_embeddings.weight", "final_linear.weight"})


def layer_numbers(num_layers: int, tied: bool) -> list[int]:
    """The layer numbers that hold weights; a ``tied`` model has no output layer."""
    return [0, *range(2, num_layers + 2), num_layers + 3] + ([] if tied else [num_layers + 4])


def canonical(name: str) -> str:
    """A layer's tensor name of any GPT-NeoX generation as the released 20B spells it."""
    return name.replace("mlp.linear1.", "mlp.dense_h_to_4h.").replace("mlp.linear2.", "mlp.dense_4h_to_h.")


def _norm(name: str, config: ModelConfig, *, used: bool = True) -> dict[str, Parameter]:
    parts = ("scale",) if config.norm == "rmsnorm" else ("weight", "bias")
    return {f"{name}.{part}": Parameter((config.hidden_size,), None, used) for part in parts}


def _column_parallel(name: str, rows: int, cols: int, bias: bool) -> dict[str, Parameter]:
    table = {f"{name}.weight": Parameter((rows, cols), 0)}
    return table | ({f"{name}.bias": Parameter((rows,), 0)} if bias else {})


def _row_parallel(name: str, rows: int, cols: int, bias: bool) -> dict[str, Parameter]:
    table = {f"{name}.weight": Parameter((rows, cols), 1)}
    return table | ({f"{name}.bias": Parameter((rows,), None)} if bias else {})


def parameters(config: ModelConfig, vocab_rows: int) -> dict[TensorKey, Parameter]:
    """Every tensor of the model that ``config`` describes, in the order of the layers.

    Args:
        config: the network.
        vocab_rows: rows of the checkpoint's (padded) vocabulary.
    """
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_layers
    attention = config.use_bias_in_attn_linear
    mlp = config.use_bias_in_mlp
    layer = {
        **_norm("input_layernorm", config),
        **_column_parallel("attention.query_key_value", 3 * hidden, hidden, attention),
        **_row_parallel("attention.dense", hidden, hidden, attention),
        # With tied norms both branches read input_layernorm; GPT-NeoX saves the other one all the same.
        **_norm("post_attention_layernorm", config, used=not (config.gpt_j_residual and config.gpt_j_tied)),
        **_column_parallel("mlp.dense_h_to_4h", inner, hidden, mlp),
        **_row_parallel("mlp.dense_4h_to_h", hidden, inner, mlp),
    }
    vocabulary = Parameter((vocab_rows, hidden), 0)

    table = {WORD_EMBEDDINGS: vocabulary}
    if config.pos_emb == "learned":
        table[TensorKey(0, "position_embeddings.weight")] = Parameter((config.max_position_embeddings, hidden), None)
    for number in range(FIRST_LAYER, layers + FIRST_LAYER):
        table |= {TensorKey(number, name): parameter for name, parameter in layer.items()}
    table |= {TensorKey(layers + 3, name): parameter for name, parameter in _norm("norm", config).items()}
    if not config.tie_embeddings:
        table[TensorKey(layers + 4, "final_linear.weight")] = vocabulary
    return table


def local_shape(name: str, parameter: Parameter, tp_size: int) -> tuple[int, ...]:
    """The shape of one rank's share when the tensor is divided over ``tp_size`` ranks.

    Vocabularies that do not divide are padded; everything else has to divide.
    """
    shape, dim = list(parameter.shape), parameter.dim
    if dim is not None:
        assert name in VOCABULARY or shape[dim] % tp_size == 0, f"{name} {shape} does not divide over {tp_size} ranks"
        shape[dim] = -(-shape[dim] // tp_size)
    return tuple(shape)


@lru_cache(maxsize=128)
def local_counts(config: ModelConfig, vocab_rows: int, tp_size: int) -> Mapping[TensorKey, int]:
    """How many numbers one of ``tp_size`` ranks holds of each tensor that the network uses.

    Args:
        config: the network.
        vocab_rows: rows of the checkpoint's (padded) vocabulary.
        tp_size: tensor-parallel size.
    """
    return {
        key: math.prod(local_shape(key.name, parameter, tp_size))
        for key, parameter in parameters(config, vocab_rows).items()
        if parameter.used
    }
