"""Files that are damaged, cut short, unsafe or something else are refused, with their names."""

from __future__ import annotations

import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neoxrun.checkpoint.files import read_pickle
from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.huggingface import to_hugging_face_name
from neoxrun.checkpoint.load import read_vocab_rows
from support.checkpoints import LAYER, TINY, load_all, random_model, raw_shards, refusal
from support.paths import FIXTURES


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
def test_other_content(folder: Path, layer: Path, content: bytes, says: str) -> None:
    layer.write_bytes(content)
    message = refusal(folder)
    assert says in message
    assert str(layer) in message
    assert "download" in message


def test_truncation_anywhere_is_refused_before_a_byte_is_used(folder: Path, layer: Path) -> None:
    whole = layer.read_bytes()
    for keep in [4, 30, 100, 1000, len(whole) // 2, len(whole) - 300, len(whole) - 22, len(whole) - 1]:
        layer.write_bytes(whole[:keep])
        assert "damaged or was cut short" in refusal(folder), keep


def test_bytes_missing_or_added_in_the_middle_are_refused(folder: Path, layer: Path) -> None:
    whole = layer.read_bytes()
    draw = random.Random(0)
    for _ in range(20):
        at = draw.randrange(100, len(whole) - 1000)
        length = draw.choice([1, 64, 500])
        layer.write_bytes(whole[:at] + whole[at + length :])
        assert str(layer) in refusal(folder), f"{length} bytes cut at {at}"
        layer.write_bytes(whole[:at] + bytes(length) + whole[at:])
        assert str(layer) in refusal(folder), f"{length} bytes added at {at}"


def test_a_record_shorter_than_its_tensor_is_refused(folder: Path, layer: Path) -> None:
    """A well-formed archive with too little data: mapped without a look, it would show other bytes."""
    with zipfile.ZipFile(layer) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(layer, "w") as archive:
        for name, data in records:
            archive.writestr(name, data[: len(data) // 2] if name.endswith("/data/3") else data)
    assert "the sizes of its tensors are not those of its data" in refusal(folder)

    # The same archive with a directory that claims the full size.
    content = bytearray(layer.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"/data/3"))
    size = struct.unpack_from("<I", content, entry + 24)[0]
    struct.pack_into("<II", content, entry + 20, 2 * size, 2 * size)
    layer.write_bytes(content)
    assert "damaged or was cut short" in refusal(folder)


def test_a_compressed_archive_is_refused(folder: Path, layer: Path) -> None:
    with zipfile.ZipFile(layer) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(layer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records:
            archive.writestr(name, data)
    assert "damaged" in refusal(folder)


class Payload:
    """Runs a command when it is unpickled carelessly."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["zip", "zip of protocol 4", "legacy", "pickle", "pickle of protocol 4"])
@pytest.mark.filterwarnings("error")
def test_a_malicious_pickle_does_not_run(folder: Path, layer: Path, tmp_path: Path, form: str) -> None:
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
    # The payload works: a careless reader does run it.
    (pickle.loads if form.startswith("pickle") else lambda _: torch.load(layer, weights_only=False))(layer.read_bytes())
    assert proof.exists()


def test_sequential_files_with_code_or_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "mp_rank_00_model_states.pt"
    torch.save({"module": None, "iteration": 1}, path)
    assert "holds no weights" in refusal(tmp_path)
    torch.save({"module": {"sequential.0.word_embeddings.weight": torch.ones(8, 16)}, "args": Payload("false")}, path)
    assert "system" in refusal(tmp_path)


def test_random_state_of_numpy_is_allowed() -> None:
    """GPT-NeoX's mp_rank files hold numpy's random-number state, which plain weights_only refuses."""
    path = FIXTURES / "upstream_tp2_pp2/global_step150000/mp_rank_00_model_states.pt"
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert read_pickle(path)["np_rng_state"][0] == "MT19937"


def test_files_older_than_torch_1_6_load(folder: Path) -> None:
    for path in folder.rglob("*.pt"):
        torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(folder / LAYER)
    for rank, shard in zip(load_all(folder, TINY, 2), raw_shards(folder), strict=True):
        assert all(torch.equal(rank[key], tensor) for key, tensor in shard.items())


def test_damaged_safetensors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, '
        '"intermediate_size": 64, "rotary_pct": 0.5, "rotary_emb_base": 10000, "hidden_act": "gelu_fast"}'
    )
    path = tmp_path / "model.safetensors"
    tensors = {to_hugging_face_name(key, 2): tensor for key, tensor in random_model(TINY, 64).items()}
    save_file(tensors, path)
    whole = path.read_bytes()
    assert read_vocab_rows(find_checkpoint(tmp_path, TINY), TINY) == 64
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
        assert "model.safetensors is not a complete safetensors file" in message
        assert str(path) in message
    path.write_bytes(b"<!DOCTYPE html>" + bytes(100))
    assert "web page" in refusal(tmp_path)

    save_file({name: tensor for name, tensor in tensors.items() if "final_layer_norm.bias" not in name}, path)
    assert "layer 5 has no norm.bias" in refusal(tmp_path)
    save_file(tensors | {"gpt_neox.extra": torch.ones(1)}, path)
    assert "unexpected tensor gpt_neox.extra" in refusal(tmp_path)
    save_file(tensors | {"lm_head.weight": torch.ones(64, 16)}, path)
    assert "is also in model.safetensors" in refusal(tmp_path)
    save_file(tensors | {"gpt_neox.layers.2.attention.dense.bias": torch.ones(16)}, path)
    assert "unexpected tensor gpt_neox.layers.2.attention.dense.bias" in refusal(tmp_path)
