"""Files that are damaged, foreign, unsafe or of another network stop the load, with their names."""

from __future__ import annotations

import os
import pickle
import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neoxrun.checkpoint.files import read_pickle
from neoxrun.checkpoint.huggingface import to_name
from neoxrun.checkpoint.layout import find
from neoxrun.checkpoint.load import vocab_rows
from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.errors import CheckpointError
from support.checkpoints import TINY, fixture_config, load_all, random_model, raw_shards, tiny

LAYER = "global_step1/layer_02-model_01-model_states.pt"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint of TINY at tensor-parallel size 2."""
    save_layer_files(random_model(TINY, 64), tmp_path, tp=2, config=TINY, tag="global_step1")
    return tmp_path


@pytest.fixture
def layer(folder) -> Path:
    return folder / LAYER


def refusal(folder: Path, config=TINY, tp=1) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_all(folder, config, tp)
    return caught.value.render()


def change(path: Path, edit) -> None:
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)


def resave(path: Path, **tensors) -> None:
    change(
        path,
        lambda state: state.update({name.replace("__", "."): tensor for name, tensor in tensors.items()}),
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n <!DOCTYPE html><html><body>404 Not Found</body></html>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
        (b'{"error": "rate limited"}', "not a file written by torch.save"),
        (bytes(1000), "not a file written by torch.save"),
    ],
)
def test_other_content(folder, layer, content, says):
    layer.write_bytes(content)
    message = refusal(folder)
    assert says in message
    assert str(layer) in message
    assert "download" in message


def test_truncation_anywhere_is_refused_before_a_byte_is_used(folder, layer):
    whole = layer.read_bytes()
    for keep in [4, 30, 100, 1000, len(whole) // 2, len(whole) - 300, len(whole) - 22, len(whole) - 1]:
        layer.write_bytes(whole[:keep])
        assert "damaged or was cut short" in refusal(folder), keep


def test_bytes_missing_or_added_in_the_middle_are_refused(folder, layer):
    whole = layer.read_bytes()
    draw = random.Random(0)
    for _ in range(20):
        at = draw.randrange(100, len(whole) - 1000)
        length = draw.choice([1, 64, 500])
        layer.write_bytes(whole[:at] + whole[at + length :])
        assert str(layer) in refusal(folder), f"{length} bytes cut at {at}"
        layer.write_bytes(whole[:at] + bytes(length) + whole[at:])
        assert str(layer) in refusal(folder), f"{length} bytes added at {at}"


def test_a_record_shorter_than_its_tensor_is_refused(folder, layer):
    """A well-formed archive with too little data: mapped without a look, it would show other bytes."""
    with zipfile.ZipFile(layer) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(layer, "w") as archive:
        for name, data in records:
            archive.writestr(name, data[: len(data) // 2] if name.endswith("/data/3") else data)
    assert "do not have the sizes of its data" in refusal(folder)

    # The same archive with a directory that claims the full size.
    content = bytearray(layer.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"/data/3"))
    size = struct.unpack_from("<I", content, entry + 24)[0]
    struct.pack_into("<II", content, entry + 20, 2 * size, 2 * size)
    layer.write_bytes(content)
    assert "damaged or was cut short" in refusal(folder)


def test_a_compressed_archive_is_refused(folder, layer):
    with zipfile.ZipFile(layer) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(layer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records:
            archive.writestr(name, data)
    assert "damaged" in refusal(folder)


class Payload:
    """Runs a command when it is unpickled by a careless reader."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["zip", "zip of protocol 4", "legacy", "pickle", "pickle of protocol 4"])
@pytest.mark.filterwarnings("error")
def test_a_malicious_pickle_does_not_run(folder, layer, tmp_path, form):
    proof = tmp_path / "executed"
    state = torch.load(layer, weights_only=True) | {"attention.dense.bias": Payload(f"touch {proof}")}
    protocol = 4 if "4" in form else 2
    if form.startswith("pickle"):
        layer.write_bytes(pickle.dumps(Payload(f"touch {proof}"), protocol=protocol))
    else:
        torch.save(state, layer, pickle_protocol=protocol, _use_new_zipfile_serialization=form != "legacy")
    message = refusal(folder)
    assert not proof.exists(), "the file ran its payload"
    named = f"{os.system.__module__}.system"
    assert ("is not a pickle as torch.save writes it" if protocol == 4 else named) in message
    assert "nothing was executed" in message
    # The payload is a working one: a careless reader does run it.
    (pickle.loads if form.startswith("pickle") else lambda _: torch.load(layer, weights_only=False))(layer.read_bytes())
    assert proof.exists()


def test_sequential_files_with_code_or_without_weights(tmp_path):
    path = tmp_path / "mp_rank_00_model_states.pt"
    torch.save({"module": None, "iteration": 1}, path)
    assert "holds no weights" in refusal(tmp_path)
    torch.save({"module": {"sequential.0.word_embeddings.weight": torch.ones(8, 16)}, "args": Payload("false")}, path)
    assert "system" in refusal(tmp_path)


def test_random_state_of_numpy_is_allowed(shared):
    """GPT-NeoX's mp_rank files hold numpy's random-number state, which plain weights_only refuses."""
    path = shared / "fixtures/upstream_tp2_pp2/global_step150000/mp_rank_00_model_states.pt"
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert read_pickle(path)["np_rng_state"][0] == "MT19937"


def test_files_older_than_torch_1_6_load(folder):
    for path in folder.rglob("*.pt"):
        torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(folder / LAYER)
    for rank, shard in zip(load_all(folder, TINY, 2), raw_shards(folder), strict=True):
        assert all(torch.equal(rank[key], tensor) for key, tensor in shard.items())


def test_missing_unexpected_and_foreign_entries(folder, layer):
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
    assert "attention.dense.bias is not a tensor" in refusal(folder)
    resave(layer, attention__dense__bias=torch.ones(16, dtype=torch.int8))
    assert "attention.dense.bias has type torch.int8" in refusal(folder)
    resave(layer, attention__dense__bias=torch.ones(16).to_sparse())
    assert "attention.dense.bias is not a tensor" in refusal(folder)

    layer.write_bytes(good)
    resave(layer, mlp__linear1__bias=torch.ones(32))
    assert "mlp.dense_h_to_4h.bias and mlp.linear1.bias" in refusal(folder)

    torch.save([torch.ones(3)], layer)
    assert "does not hold named tensors but a list" in refusal(folder)


def test_wrong_shapes_name_file_tensor_and_both_shapes(folder, layer):
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
def test_numbers_that_are_none_name_file_and_tensor(folder, layer, name, value):
    """At the checkpoint's own split, and where slices are joined, summed or averaged."""
    change(layer, lambda state: state[name].view(-1)[3:5].fill_(value))
    for tp in (1, 2, 4):
        message = refusal(folder, tp=tp)
        assert f"{name} holds NaN or infinity in 2 of its " in message
        assert str(layer) in message


def test_numbers_that_the_number_format_does_not_hold(folder, layer):
    change(layer, lambda state: state["mlp.dense_4h_to_h.weight"][0, 0].fill_(1e5))
    load_all(folder, TINY, 2, dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"mlp.dense_4h_to_h.weight holds numbers that are too large for float16"):
        load_all(folder, TINY, 2, dtype=torch.float16)


def test_shards_of_the_vocabulary_that_disagree(folder):
    path = folder / "global_step1/layer_00-model_01-model_states.pt"
    torch.save({"word_embeddings.weight": torch.ones(30, 16)}, path)
    message = refusal(folder)
    assert "rank 0 has 32 rows, rank 1 has 30" in message
    torch.save({"word_embeddings.weight": torch.ones(32, 8)}, path)
    assert "has shape [32, 8], the configuration asks for [vocabulary, 16]" in refusal(folder)
    torch.save({}, path)
    assert "layer 0 has no word_embeddings.weight" in refusal(folder)


def test_a_head_with_another_vocabulary_than_the_embedding(folder):
    for rank in range(2):
        path = folder / f"global_step1/layer_06-model_{rank:02d}-model_states.pt"
        torch.save({"final_linear.weight": torch.ones(40, 16)}, path)
    assert "final_linear.weight has shape [40, 16], the configuration asks for [32, 16]" in refusal(folder)


def test_grouped_query_files_are_recognised(folder):
    for path in folder.rglob("layer_0[23]-*.pt"):
        resave(path, attention__query_key_value__weight=torch.ones(16, 16))  # 8 of Q, 4 of K, 4 of V
    assert "grouped-query attention" in refusal(folder)


def test_a_transposed_weight_is_recognised(folder):
    for path in folder.rglob("layer_02-*.pt"):
        state = torch.load(path, weights_only=True)
        name = "attention.query_key_value.weight"
        torch.save(state | {name: state[name].t().contiguous()}, path)
    assert "has shape [16, 24], the configuration asks for [24, 16]" in refusal(folder)
    assert "hint: the tensor is transposed" in refusal(folder)


@pytest.mark.parametrize(("tp", "kept"), [(2, 1), (4, 1), (4, 3)])
def test_whole_missing_ranks_are_told_by_the_shapes(tmp_path, tp, kept):
    save_layer_files(random_model(TINY, 64), tmp_path, tp=tp, config=TINY, tag="global_step1")
    missing = [f"model_{rank:02d}" for rank in range(kept, tp)]
    for path in tmp_path.rglob("*.pt"):
        if any(name in path.name for name in missing):
            path.unlink()
    message = refusal(tmp_path)
    assert f"all files of {tp - kept} of the {tp} tensor-parallel ranks are missing: " in message
    assert ", ".join(f"layer_*-{name}-*" for name in missing) in message
    assert str(tmp_path / "global_step1") in message


def test_a_missing_sequential_rank(shared, tmp_path):
    folder = shared / "fixtures/tp2_sequential"
    config = fixture_config(folder)
    for path in folder.glob("global_step*/mp_rank_00_*"):
        (tmp_path / path.name).symlink_to(path)
    assert "all files of 1 of the 2 tensor-parallel ranks are missing: mp_rank_01_*" in refusal(tmp_path, config)


def test_the_other_norm(folder):
    assert "layer 2 has no input_layernorm.scale" in refusal(folder, tiny(norm="rmsnorm"))


def test_damaged_safetensors(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, '
        '"intermediate_size": 64, "rotary_pct": 0.5, "rotary_emb_base": 10000, "hidden_act": "gelu_fast"}'
    )
    path = tmp_path / "model.safetensors"
    tensors = {to_name(key, 2): tensor for key, tensor in random_model(TINY, 64).items()}
    save_file(tensors, path)
    whole = path.read_bytes()
    assert vocab_rows(find(tmp_path, TINY), TINY) == 64
    for damaged in [
        whole[:4],
        whole[:100],
        whole[: len(whole) // 2],
        whole[:-1],
        b"\xff" * 8 + whole[8:],
        whole + b"0",
    ]:
        path.write_bytes(damaged)
        message = refusal(tmp_path)
        assert "model.safetensors is not a whole safetensors file" in message
        assert str(path) in message
    path.write_bytes(b"<!DOCTYPE html>" + bytes(100))
    assert "web page" in refusal(tmp_path)

    save_file({name: tensor for name, tensor in tensors.items() if "final_layer_norm.bias" not in name}, path)
    assert "layer 5 has no norm.bias" in refusal(tmp_path)
    save_file(tensors | {"gpt_neox.extra": torch.ones(1)}, path)
    assert "unexpected tensor gpt_neox.extra" in refusal(tmp_path)
    save_file(tensors | {"lm_head.weight": torch.ones(64, 16)}, path)
    assert "is in model.safetensors as well" in refusal(tmp_path)
    save_file(tensors | {"gpt_neox.layers.2.attention.dense.bias": torch.ones(16)}, path)
    assert "unexpected tensor gpt_neox.layers.2.attention.dense.bias" in refusal(tmp_path)
