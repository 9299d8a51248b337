"""Norms that differ between tensor-parallel ranks, folded into the layers that read them: the same function."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.fold import norm_before
from neoxrun.checkpoint.load import load_weights
from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.config.settings import Merge, ModelConfig
from neoxrun.config.tensors import TensorKey
from support.checkpoints import TINY, join, load_all, random_model, raw_shards, stage_layer_numbers, tiny
from support.reference import Weights, logits

IDS = [3, 1, 4, 1, 0, 2]
ROWS = 12
NORM = {"weight": 1.0, "scale": 1.0, "bias": 0.0}


def save_drifted(config: ModelConfig, folder: Path, tp: int, dtype: torch.dtype, drift: float = 0.3) -> list[Weights]:
    """Save a checkpoint whose ranks' norms differ, as after training, and return each rank's tensors."""
    generator = torch.Generator().manual_seed(3)

    def near(middle: float, tensor: Tensor) -> Tensor:
        return (middle + drift * torch.randn(tensor.shape, generator=generator)).to(dtype)

    model = {key: tensor / math.sqrt(tensor.shape[-1]) for key, tensor in random_model(config, ROWS).items()}
    save_layer_files(
        {key: tensor.to(dtype) for key, tensor in model.items()}, folder, tp=tp, config=config, tag="global_step1"
    )
    for path in sorted(folder.rglob("layer_*.pt")):
        state = torch.load(path, weights_only=True)
        for name, tensor in state.items():
            if "norm" in name:
                state[name] = near(NORM[name.rpartition(".")[2]], tensor)
            elif name.endswith("bias") and config.gpt_j_residual:
                state[name] = near(0.0, tensor)
        torch.save(state, path)
    return list(raw_shards(folder))


def load_merged(
    folder: Path, config: ModelConfig, tp: int = 1, *, merge: Merge = "fold", dtype: torch.dtype = torch.float32
) -> tuple[dict[TensorKey, Tensor], frozenset[str]]:
    """The whole model as loaded at ``tp``, and what the loader could not keep exactly."""
    names: set[str] = set()
    ranks = load_all(folder, config, tp, dtype=dtype, merge=merge, approximated=names)
    return join(ranks, parallel_residual=config.gpt_j_residual), frozenset(names)


def error(config: ModelConfig, merged: Weights, shards: list[Weights]) -> float:
    """Largest difference of the logits, next to their size."""
    right = logits(config, shards, IDS)
    return float((logits(config, [merged], IDS)[:, :ROWS] - right).abs().max() / right.abs().max())


@settings(max_examples=25, deadline=None)
@given(
    head_dim=st.sampled_from([2, 4]),
    inner=st.integers(1, 3),
    source=st.sampled_from([2, 4]),
    target=st.sampled_from([1, 2, 4, 8]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    options=st.fixed_dictionaries(
        {
            "gpt_j_residual": st.booleans(),
            "gpt_j_tied": st.booleans(),
            "norm": st.sampled_from(["layernorm", "rmsnorm"]),
            "pos_emb": st.sampled_from(["rotary", "none"]),
            "use_bias_in_mlp": st.booleans(),
            "use_bias_in_attn_linear": st.booleans(),
            "num_layers": st.integers(1, 2),
        }
    ),
)
def test_any_split_computes_what_the_ranks_computed(
    tmp_path_factory: pytest.TempPathFactory,
    head_dim: int,
    inner: int,
    source: int,
    target: int,
    dtype: torch.dtype,
    options: dict[str, Any],
) -> None:
    """At any shapes, splits and number formats, to the rounding of the weights."""
    sizes = {"hidden_size": 8 * head_dim, "num_attention_heads": 8, "intermediate_size": 8 * inner}
    config = tiny(**sizes, rotary_pct=2 / head_dim, **options)
    folder = tmp_path_factory.mktemp("drifted")
    shards = save_drifted(config, folder, source, dtype)
    merged, approximated = load_merged(folder, config, target, dtype=dtype)
    assert not approximated
    if target != source:
        assert error(config, merged, shards) < 50 * torch.finfo(dtype).eps


def test_a_folded_norm_has_no_parameters_and_the_head_a_bias(tmp_path: Path) -> None:
    shards = save_drifted(TINY, tmp_path, 2, torch.float32)
    merged, _ = load_merged(tmp_path, TINY)
    for key, tensor in merged.items():
        if "norm" in key.name:
            assert (tensor == NORM[key.name.rpartition(".")[2]]).all(), key
    final, head = TINY.num_layers + 3, TINY.num_layers + 4
    shifts = [shard[TensorKey(head, "final_linear.weight")] @ shard[TensorKey(final, "norm.bias")] for shard in shards]
    torch.testing.assert_close(merged[TensorKey(head, "final_linear.bias")], torch.cat(shifts))


def test_averages_are_another_model(tmp_path: Path) -> None:
    shards = save_drifted(TINY, tmp_path, 2, torch.float32)
    merged, approximated = load_merged(tmp_path, TINY, merge="average")
    whole = join(shards, parallel_residual=True)
    assert merged.keys() == whole.keys()
    assert all(torch.equal(merged[key], tensor) for key, tensor in whole.items())
    assert approximated == {
        f"{norm}.{part}"
        for norm in ("input_layernorm", "post_attention_layernorm", "norm")
        for part in ("weight", "bias")
    }
    assert error(TINY, merged, shards) > 1e-2


def test_equal_norms_stay_as_they_are(tmp_path: Path) -> None:
    """Bit for bit, and no layer gets a bias; also where only the norms of another layer differ."""
    save_drifted(TINY, tmp_path, 2, torch.float16, drift=0.0)
    before, _ = load_merged(tmp_path, TINY, dtype=torch.float16)
    whole = join(raw_shards(tmp_path), parallel_residual=True)
    assert before.keys() == whole.keys()
    assert all(torch.equal(before[key], tensor) for key, tensor in whole.items())
    path = tmp_path / "global_step1/layer_02-model_01-model_states.pt"
    state = torch.load(path, weights_only=True)
    state["input_layernorm.weight"][3] += 0.5
    torch.save(state, path)
    after, approximated = load_merged(tmp_path, TINY, dtype=torch.float16)
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    assert changed == {TensorKey(2, "attention.query_key_value.weight")}, "of rank 1, whose scale is not 1"
    assert after.keys() == before.keys()
    assert not approximated


def test_a_tied_head_keeps_an_average_of_the_final_norm(tmp_path: Path) -> None:
    """Its rows are the embedding's, too, which must stay as they are; the layers' norms are folded all the same."""
    config = tiny(tie_embeddings=True)
    shards = save_drifted(config, tmp_path, 2, torch.float32)
    merged, approximated = load_merged(tmp_path, config)
    assert approximated == {"norm.weight", "norm.bias"}
    mean = torch.stack([shard[TensorKey(5, "norm.weight")] for shard in shards]).mean(0)
    torch.testing.assert_close(merged[TensorKey(5, "norm.weight")], mean)
    assert (merged[TensorKey(2, "input_layernorm.weight")] == 1).all()
    averaged, _ = load_merged(tmp_path, config, merge="average")
    assert error(config, merged, shards) < error(config, averaged, shards)


@pytest.mark.parametrize("tp", [1, 2])
def test_biases_that_all_ranks_should_share_are_named(tmp_path: Path, tp: int) -> None:
    """With the sequential residual; the first rank's is used, even at the checkpoint's own size."""
    config = tiny(gpt_j_residual=False)
    save_drifted(config, tmp_path, 2, torch.float32)
    assert not load_merged(tmp_path, config, tp)[1]
    path = tmp_path / "global_step1/layer_02-model_01-model_states.pt"
    state = torch.load(path, weights_only=True)
    state["attention.dense.bias"] += 1
    torch.save(state, path)
    names: set[str] = set()
    load_all(tmp_path, config, tp, approximated=names)
    assert names == {"attention.dense.bias"}


def test_learned_positions_that_differ_are_averaged(tmp_path: Path) -> None:
    config = tiny(pos_emb="learned")
    save_drifted(config, tmp_path, 2, torch.float32)
    path = tmp_path / "global_step1/layer_00-model_01-model_states.pt"
    state = torch.load(path, weights_only=True)
    state["position_embeddings.weight"] += 1
    torch.save(state, path)
    assert load_merged(tmp_path, config)[1] == {"position_embeddings.weight"}


def test_products_are_rounded_once(tmp_path: Path) -> None:
    """Weights of fp32 that become fp16: the fp32 product is rounded, not a product of rounded numbers."""
    shards = save_drifted(TINY, tmp_path, 2, torch.float32)
    merged, _ = load_merged(tmp_path, TINY, dtype=torch.float16)
    name = "attention.query_key_value"
    right = [shard[TensorKey(2, f"{name}.weight")] * shard[TensorKey(2, "input_layernorm.weight")] for shard in shards]
    assert torch.equal(merged[TensorKey(2, f"{name}.weight")], torch.cat(right).half())


def test_the_files_are_not_written_to(tmp_path: Path) -> None:
    """They are mapped into memory, and fp32 products must not be computed in place there."""
    before = save_drifted(TINY, tmp_path, 2, torch.float32)
    load_merged(tmp_path, TINY)
    for old, new in zip(before, raw_shards(tmp_path), strict=True):
        assert all(torch.equal(old[key], new[key]) for key in old)


def test_rows_are_folded_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_drifted(TINY, tmp_path, 2, torch.float32)
    whole, _ = load_merged(tmp_path, TINY)
    monkeypatch.setattr("neoxrun.checkpoint.fold._NUMBERS_AT_ONCE", 3 * TINY.hidden_size)
    pieces, _ = load_merged(tmp_path, TINY)
    assert all(torch.allclose(whole[key], pieces[key], atol=1e-6) for key in whole)


def test_a_head_alone_cannot_be_loaded(tmp_path: Path) -> None:
    """Its norm is in the layer before: a head without it would silently be another model's."""
    save_drifted(TINY, tmp_path, 2, torch.float32)
    (head,) = stage_layer_numbers(TINY, 2, 1) - {3, 5}
    with pytest.raises(AssertionError, match="the head reads the final norm"):
        load_weights(
            find_checkpoint(tmp_path, TINY),
            {TensorKey(head, "final_linear.weight"): (ROWS, TINY.hidden_size)},
            lambda key, tensor: None,
            config=TINY,
            tp_rank=0,
            tp_size=1,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )


def test_which_norm_a_layer_reads() -> None:
    assert norm_before("mlp.dense_h_to_4h", tiny(gpt_j_tied=True)) == "input_layernorm"
    assert norm_before("mlp.dense_h_to_4h", tiny(gpt_j_tied=True, gpt_j_residual=False)) == "post_attention_layernorm"
    assert norm_before("attention.dense", TINY) is None
