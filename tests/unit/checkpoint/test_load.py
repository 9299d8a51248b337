"""Any tensor-parallel size of the files to any split of the model; tensors that do not belong stop the load."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.load import load_weights, read_vocab_rows
from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.config.tensors import TensorKey
from neoxrun.errors import CheckpointError
from support.checkpoints import (
    TINY,
    assert_same_tensors,
    fixture_config,
    join,
    load_all,
    load_rank,
    random_model,
    raw_shards,
    refusal,
    tiny,
)
from support.paths import FIXTURES


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.sampled_from([4, 12]),
    head_dim=st.integers(1, 3),
    inner=st.integers(1, 3),
    vocab=st.integers(1, 40),
    source=st.sampled_from([1, 2, 4]),
    target=st.sampled_from([1, 2, 4]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    options=st.fixed_dictionaries(
        {
            "gpt_j_residual": st.booleans(),
            "tie_embeddings": st.booleans(),
            "norm": st.sampled_from(["layernorm", "rmsnorm"]),
            "pos_emb": st.sampled_from(["rotary", "learned"]),
            "use_bias_in_mlp": st.booleans(),
            "use_bias_in_attn_linear": st.booleans(),
            "num_layers": st.integers(1, 3),
        }
    ),
)
def test_saved_at_any_size_and_loaded_at_any_size_is_the_same_model(
    tmp_path_factory: pytest.TempPathFactory,
    heads: int,
    head_dim: int,
    inner: int,
    vocab: int,
    source: int,
    target: int,
    dtype: torch.dtype,
    options: dict[str, Any],
) -> None:
    config = tiny(hidden_size=heads * head_dim, num_attention_heads=heads, intermediate_size=heads * inner, **options)
    model = random_model(config, vocab, dtype=dtype)
    folder = tmp_path_factory.mktemp("saved")
    save_layer_files(model, folder, tp=source, config=config, tag="global_step1")
    assert join(raw_shards(folder), parallel_residual=config.gpt_j_residual).keys() == model.keys()
    loaded = join(load_all(folder, config, target, dtype=dtype), parallel_residual=config.gpt_j_residual)
    for key, tensor in model.items():
        rows = tensor.shape[0]
        assert torch.equal(loaded[key][:rows], tensor), key
        assert not loaded[key][rows:].any(), f"{key}: rows beyond the vocabulary are zero"
        assert rows == loaded[key].shape[0] or key.name in ("word_embeddings.weight", "final_linear.weight")


def test_a_last_stage_with_a_tied_head_reads_the_embedding(tmp_path: Path) -> None:
    config = tiny(tie_embeddings=True, pos_emb="learned")
    model = random_model(config, 10)
    save_layer_files(model, tmp_path, tp=2, config=config, tag="global_step1")
    head = TensorKey(0, "word_embeddings.weight")
    loaded = {}
    load_weights(
        find_checkpoint(tmp_path, config),
        {head: (5, 16)},
        loaded.__setitem__,
        config=config,
        tp_rank=1,
        tp_size=2,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    assert torch.equal(loaded[head], model[head][5:])


def test_means_are_taken_in_fp32(tmp_path: Path) -> None:
    config = tiny(gpt_j_residual=False)
    model = random_model(config, 8, dtype=torch.float16)
    save_layer_files(model, tmp_path, tp=4, config=config, tag="global_step1")
    for rank in range(4):
        path = tmp_path / f"global_step1/layer_05-model_{rank:02d}-model_states.pt"
        # 60000 x 4 is beyond fp16; the mean is not.
        torch.save({"norm.weight": torch.full((16,), 60000.0).half(), "norm.bias": torch.zeros(16).half()}, path)
    (rank,) = load_all(tmp_path, config, 1, dtype=torch.float16)
    assert (rank[TensorKey(5, "norm.weight")] == 60000).all()


def test_dtype_is_converted_and_progress_adds_up(tmp_path: Path) -> None:
    model = random_model(TINY, 8)
    save_layer_files(model, tmp_path, tp=2, config=TINY, tag="global_step1")
    steps: list[int] = []
    loaded = load_rank(find_checkpoint(tmp_path, TINY), TINY, 1, 0, dtype=torch.bfloat16, progress=steps.append)
    assert sum(steps) == sum(math.prod(tensor.shape) * 2 for tensor in model.values())
    assert_same_tensors(loaded, {key: tensor.bfloat16() for key, tensor in model.items()}, rtol=0, atol=0)


def test_ignored_and_unused_tensors(tmp_path: Path) -> None:
    """Buffers of old files are skipped; with tied norms the second one stays in the file unread."""
    config = tiny(gpt_j_tied=True)
    save_layer_files(random_model(config, 8), tmp_path, tp=1, config=config, tag="global_step1")
    path = tmp_path / "global_step1/layer_02-model_00-model_states.pt"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"attention.rotary_emb.inv_freq": torch.ones(2, dtype=torch.float16)}, path)
    target = TensorKey(2, "input_layernorm.weight")
    keys = {TensorKey(2, name): tuple(tensor.shape) for name, tensor in state.items() if "post_" not in name}
    loaded = {}
    load_weights(
        find_checkpoint(tmp_path, config),
        keys,
        loaded.__setitem__,
        config=config,
        tp_rank=0,
        tp_size=1,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    assert loaded.keys() == keys.keys()
    assert torch.equal(loaded[target], state[target.name])


def test_a_tensor_that_the_model_forgets_is_noticed(tmp_path: Path) -> None:
    save_layer_files(random_model(TINY, 8), tmp_path, tp=1, config=TINY, tag="global_step1")
    with pytest.raises(CheckpointError, match=r"unexpected tensor norm\.bias") as caught:
        load_weights(
            find_checkpoint(tmp_path, TINY),
            {TensorKey(5, "norm.weight"): (16,)},
            lambda key, tensor: None,
            config=TINY,
            tp_rank=0,
            tp_size=1,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
    assert caught.value.code == "wrong_tensors"


def test_vocab_rows_are_counted_over_all_shards(tmp_path: Path) -> None:
    save_layer_files(random_model(TINY, 10), tmp_path, tp=4, config=TINY, tag="global_step1")
    assert read_vocab_rows(find_checkpoint(tmp_path, TINY), TINY) == 12  # padded to a multiple of 4 when it was saved


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)


def resave(path: Path, **tensors: Any) -> None:
    change(
        path,
        lambda state: state.update({name.replace("__", "."): tensor for name, tensor in tensors.items()}),
    )


def test_missing_unexpected_and_foreign_entries(folder: Path, layer: Path) -> None:
    good = layer.read_bytes()
    change(layer, lambda state: state.pop("mlp.dense_4h_to_h.bias"))
    message = refusal(folder)
    assert "layer 2 has no mlp.dense_4h_to_h.bias" in message
    assert str(layer) in message

    for name, value in [("attention.q_norm.weight", torch.ones(4)), ("mlp.linear3.weight", torch.ones(4, 4))]:
        layer.write_bytes(good)
        change(layer, lambda state, name=name, value=value: state.update({name: value}))
        message = refusal(folder)
        assert f"unexpected tensor {name}" in message
        assert str(layer) in message

    layer.write_bytes(good)
    resave(layer, attention__dense__bias="text")
    assert "attention.dense.bias has type str, but weights must be dense tensors" in refusal(folder)
    resave(layer, attention__dense__bias=torch.ones(16, dtype=torch.int8))
    assert "attention.dense.bias has type torch.int8" in refusal(folder)
    resave(layer, attention__dense__bias=torch.ones(16).to_sparse())
    assert "attention.dense.bias has layout torch.sparse_coo, but weights must be dense tensors" in refusal(folder)

    layer.write_bytes(good)
    resave(layer, mlp__linear1__bias=torch.ones(32))
    assert "mlp.dense_h_to_4h.bias and mlp.linear1.bias" in refusal(folder)

    torch.save([torch.ones(3)], layer)
    assert "holds a list, not named tensors" in refusal(folder)


def test_wrong_shapes_name_file_tensor_and_both_shapes(folder: Path, layer: Path) -> None:
    good = layer.read_bytes()
    for name, shape, expected in [
        ("mlp.dense_h_to_4h.weight", (31, 16), "[32, 16]"),
        ("mlp.dense_4h_to_h.weight", (16, 16), "[16, 32]"),
        ("input_layernorm.weight", (8,), "[16]"),
        ("attention.dense.bias", (16, 1), "[16]"),
    ]:
        layer.write_bytes(good)
        change(layer, lambda state, name=name, shape=shape: state.update({name: torch.ones(shape)}))
        message = refusal(folder, tp=2)
        assert f"{name} has shape {list(shape)}, the configuration asks for {expected}" in message
        assert str(layer) in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["mlp.dense_4h_to_h.weight", "post_attention_layernorm.bias", "attention.dense.bias"])
def test_numbers_that_are_none_name_file_and_tensor(folder: Path, layer: Path, name: str, value: float) -> None:
    """At the checkpoint's own split, and where slices are joined, summed or averaged."""
    change(layer, lambda state: state[name].view(-1)[3:5].fill_(value))
    for tp in (1, 2, 4):
        message = refusal(folder, tp=tp)
        assert f"{name} holds NaN or infinity in 2 of its " in message
        assert str(layer) in message
        assert f"`neoxrun download --verify {folder}`" in message


def test_numbers_that_the_number_format_does_not_hold(folder: Path, layer: Path) -> None:
    change(layer, lambda state: state["mlp.dense_4h_to_h.weight"][0, 0].fill_(1e5))
    load_all(folder, TINY, 2, dtype=torch.bfloat16)
    with pytest.raises(
        CheckpointError, match=r"mlp.dense_4h_to_h.weight holds numbers that are too large for float16"
    ) as caught:
        load_all(folder, TINY, 2, dtype=torch.float16)
    assert caught.value.code == "nonfinite_weights"
    assert caught.value.hint == "Try --dtype bf16 or --dtype fp32."


def test_shards_of_the_vocabulary_that_disagree(folder: Path) -> None:
    path = folder / "global_step1/layer_00-model_01-model_states.pt"
    torch.save({"word_embeddings.weight": torch.ones(30, 16)}, path)
    message = refusal(folder)
    assert "rank 0 has 32 rows, rank 1 has 30" in message
    torch.save({"word_embeddings.weight": torch.ones(32, 8)}, path)
    assert "has shape [32, 8], the configuration asks for [vocabulary, 16]" in refusal(folder)
    torch.save({}, path)
    assert "layer 0 has no word_embeddings.weight" in refusal(folder)


def test_a_head_with_another_vocabulary_than_the_embedding(folder: Path) -> None:
    for rank in range(2):
        path = folder / f"global_step1/layer_06-model_{rank:02d}-model_states.pt"
        torch.save({"final_linear.weight": torch.ones(40, 16)}, path)
    assert "final_linear.weight has shape [40, 16], the configuration asks for [32, 16]" in refusal(folder)


def test_grouped_query_files_are_recognised(folder: Path) -> None:
    for path in folder.rglob("layer_0[23]-*.pt"):
        resave(path, attention__query_key_value__weight=torch.ones(16, 16))  # 8 of Q, 4 of K, 4 of V
    assert "grouped-query attention" in refusal(folder)


def test_a_transposed_weight_is_recognised(folder: Path) -> None:
    for path in folder.rglob("layer_02-*.pt"):
        state = torch.load(path, weights_only=True)
        name = "attention.query_key_value.weight"
        torch.save(state | {name: state[name].t().contiguous()}, path)
    assert "has shape [16, 24], the configuration asks for [24, 16]" in refusal(folder)
    assert "hint: The tensor is transposed" in refusal(folder)


@pytest.mark.parametrize(("tp", "kept"), [(2, 1), (4, 1), (4, 3)])
def test_whole_missing_ranks_are_told_by_the_shapes(tmp_path: Path, tp: int, kept: int) -> None:
    save_layer_files(random_model(TINY, 64), tmp_path, tp=tp, config=TINY, tag="global_step1")
    missing = [f"model_{rank:02d}" for rank in range(kept, tp)]
    for path in tmp_path.rglob("*.pt"):
        if any(name in path.name for name in missing):
            path.unlink()
    message = refusal(tmp_path)
    assert f"all files of {tp - kept} of the {tp} tensor-parallel ranks are missing: " in message
    assert ", ".join(f"layer_*-{name}-*" for name in missing) in message
    assert str(tmp_path / "global_step1") in message


def test_a_missing_sequential_rank(tmp_path: Path) -> None:
    folder = FIXTURES / "tp2_sequential"
    config = fixture_config(folder)
    for path in folder.glob("global_step*/mp_rank_00_*"):
        (tmp_path / path.name).symlink_to(path)
    assert "all files of 1 of the 2 tensor-parallel ranks are missing: mp_rank_01_*" in refusal(tmp_path, config)


def test_the_other_norm(folder: Path) -> None:
    assert "layer 2 has no input_layernorm.scale" in refusal(folder, tiny(norm="rmsnorm"))
