"""The table of a model's tensors, counted."""

from __future__ import annotations

import math

import pytest

from neoxrun.config.tensors import TensorKey, local_counts, local_shape, parameters
from support.checkpoints import tiny


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_counts_are_of_the_shapes_of_one_rank(tp: int) -> None:
    config = tiny()
    table = parameters(config, 50)  # not divisible by 4
    counts = local_counts(config, 50, tp)
    assert counts == {key: math.prod(local_shape(key.name, entry, tp)) for key, entry in table.items()}
    width = config.hidden_size
    assert counts[TensorKey(0, "word_embeddings.weight")] == math.ceil(50 / tp) * width
    assert counts[TensorKey(2, "attention.query_key_value.weight")] == 3 * width * width // tp
    assert counts[TensorKey(2, "input_layernorm.weight")] == width


@pytest.mark.parametrize(("parallel", "tied"), [(True, True), (True, False), (False, True)])
def test_the_second_norm_of_tied_norms_is_stored_and_not_counted(parallel: bool, tied: bool) -> None:
    config = tiny(gpt_j_residual=parallel, gpt_j_tied=tied)
    unused = parameters(config, 64).keys() - local_counts(config, 64, 1).keys()
    norms = {
        TensorKey(2 + layer, f"post_attention_layernorm.{part}")
        for layer in range(config.num_layers)
        for part in ("weight", "bias")
    }
    assert norms <= parameters(config, 64).keys()
    assert unused == (norms if parallel and tied else set())
