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

# The dim of each matrix that ranks divide among them. Dim 1 is that of a layer's inputs (row-parallel): each rank then
# holds the whole bias.
_DIVIDED: Final = {
    "word_embeddings": 0,
    "attention.query_key_value": 0,
    "attention.dense": 1,
    "mlp.dense_h_to_4h": 0,
    "mlp.dense_4h_to_h": 1,
    "final_linear": 0,
}
# What of a layer is divided in that dim; ``lora_a`` and ``lora_b`` are those of an adapter that is trained.
_PARTS: Final = (("weight", "bias", "lora_b"), ("weight", "lora_a"))


def layer_numbers(num_layers: int, tied: bool) -> list[int]:
    """The layer numbers that hold weights; a ``tied`` model has no output layer."""
    return [0, *range(2, num_layers + 2), num_layers + 3] + ([] if tied else [num_layers + 4])


def canonical(name: str) -> str:
    """A layer's tensor name of any GPT-NeoX generation as the released 20B spells it."""
    return name.replace("mlp.linear1.", "mlp.dense_h_to_4h.").replace("mlp.linear2.", "mlp.dense_4h_to_h.")


def divided_dim(name: str) -> int | None:
    """The dim of a tensor that ranks divide among them, by its ``canonical`` name; None: each holds it in full."""
    module, _, part = name.rpartition(".")
    dim = _DIVIDED.get(module)
    return dim if dim is not None and part in _PARTS[dim] else None


def _norm(name: str, config: ModelConfig, *, used: bool = True) -> dict[str, Parameter]:
    parts = ("scale",) if config.norm == "rmsnorm" else ("weight", "bias")
    return {f"{name}.{part}": Parameter((config.hidden_size,), None, used) for part in parts}


def _linear(name: str, rows: int, cols: int, bias: bool) -> dict[str, Parameter]:
    shapes = {f"{name}.weight": (rows, cols)} | ({f"{name}.bias": (rows,)} if bias else {})
    return {name: Parameter(shape, divided_dim(name)) for name, shape in shapes.items()}


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
        **_linear("attention.query_key_value", 3 * hidden, hidden, attention),
        **_linear("attention.dense", hidden, hidden, attention),
        # With tied norms both branches read input_layernorm; GPT-NeoX saves the other one all the same.
        **_norm("post_attention_layernorm", config, used=not (config.gpt_j_residual and config.gpt_j_tied)),
        **_linear("mlp.dense_h_to_4h", inner, hidden, mlp),
        **_linear("mlp.dense_4h_to_h", hidden, inner, mlp),
    }
    vocabulary = Parameter((vocab_rows, hidden), divided_dim(WORD_EMBEDDINGS.name))

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
