"""A tied head that the files hold apart from the embedding."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neoxrun.checkpoint.head import use_stored_head
from neoxrun.config.reader import load_settings

EMBEDDING = torch.arange(12.0).view(3, 4)
CONFIG = {
    "model_type": "gpt_neox",
    "hidden_size": 4,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "rotary_pct": 1.0,
}


def folder_with(folder: Path, name: str, *, tied: bool = True, **tensors: torch.Tensor) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": tied}))
    names = {"embed_in": "gpt_neox.embed_in.weight", "embed_out": "embed_out.weight", "lm_head": "lm_head.weight"}
    content = {names[key]: tensor for key, tensor in tensors.items()}
    if name.endswith(".bin"):
        torch.save(content, folder / name)
    else:
        save_file(content, folder / name)
    return folder


def is_tied(folder: Path) -> bool:
    return use_stored_head(load_settings([str(folder)])).model.tie_embeddings


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("head", ["embed_out", "lm_head"])
def test_another_head_in_the_files_is_used(
    name: str, head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not is_tied(folder_with(tmp_path, name, embed_in=EMBEDDING, **{head: EMBEDDING + 1}))
    how = "stored separately from" if name.endswith(".bin") else "another matrix than"
    assert f"{head}.weight in {name} is {how} the embedding" in caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_the_same_matrix_twice_stays_tied(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    head = EMBEDDING if name.endswith(".bin") else EMBEDDING.clone()
    assert is_tied(folder_with(tmp_path, name, embed_in=EMBEDDING, embed_out=head))
    assert not caplog.text


@pytest.mark.parametrize("other", [EMBEDDING.half(), EMBEDDING.view(4, 3).clone()])
def test_another_type_or_shape_is_another_matrix(other: torch.Tensor, tmp_path: Path) -> None:
    assert not is_tied(folder_with(tmp_path, "model.safetensors", embed_in=EMBEDDING, embed_out=other))


def test_one_of_the_two_alone_stays_tied(tmp_path: Path) -> None:
    assert is_tied(folder_with(tmp_path, "model.safetensors", embed_in=EMBEDDING))
    assert is_tied(folder_with(tmp_path, "model.safetensors", embed_out=EMBEDDING))


def test_parameters_of_one_storage_are_the_same(tmp_path: Path) -> None:
    shared = torch.nn.Parameter(EMBEDDING.clone())
    assert is_tied(folder_with(tmp_path, "pytorch_model.bin", embed_in=shared, embed_out=shared))


def test_two_equal_matrices_of_an_archive_are_not_called_different(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not is_tied(folder_with(tmp_path, "pytorch_model.bin", embed_in=EMBEDDING, embed_out=EMBEDDING.clone()))
    assert "is stored separately" in caplog.text
    assert "another matrix" not in caplog.text


def table(**changes: object) -> dict[str, object]:
    """A header with a head and an embedding, each of 8 bytes."""
    head = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16], **changes}
    return {
        "gpt_neox.embed_in.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "embed_out.weight": {key: value for key, value in head.items() if value is not None},
    }


DAMAGED = {
    "empty": b"",
    "no header": b"\xff" * 8,
    "a list": b"\x02\0\0\0\0\0\0\0[]",
    "no offsets": table(data_offsets=None),
    "offsets that are texts": table(data_offsets=["8", "16"]),
    "one offset": table(data_offsets=[8]),
    "offsets of another length": table(data_offsets=[8, 12]),
    "offsets beyond the end": table(data_offsets=[8, 1 << 40], shape=[(1 << 38) - 2]),
    "negative offsets": table(data_offsets=[-8, 0]),
    "no type": table(dtype=None),
    "an entry that is no mapping": {**table(), "embed_out.weight": 3},
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_change_nothing(content: object, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_with(tmp_path, "model.safetensors", embed_in=EMBEDDING)
    if isinstance(content, dict):
        content = json.dumps(content).encode()
    assert isinstance(content, bytes)
    if len(content) > 16:
        content = struct.pack("<Q", len(content)) + content + bytes(range(16))
    (folder / "model.safetensors").write_bytes(content)
    assert is_tied(folder)
    assert not caplog.text


def test_a_header_is_not_longer_than_its_file(tmp_path: Path) -> None:
    """A bogus length does not make the whole file be read."""
    folder = folder_with(tmp_path, "model.safetensors", embed_in=EMBEDDING)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 1 << 60))
        file.truncate(1 << 36)
    assert is_tied(folder)


def test_hostile_archives_take_no_time(tmp_path: Path) -> None:
    """A tensor whose data has a name of 2**60 parts, twice: comparing them would take forever."""
    folder = folder_with(tmp_path, "model.safetensors", embed_in=EMBEDDING)
    (folder / "model.safetensors").unlink()
    deep = b")" + b"q\0h\0\x86" * 60
    tensor = b"cx\ny\n(" + b"NN" + deep + b"tQK\0\x86R"
    names = (b"gpt_neox.embed_in.weight", b"embed_out.weight")
    items = b"".join(b"X" + struct.pack("<I", len(name)) + name + tensor + b"s" for name in names)
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("one/data.pkl", b"\x80\x02}" + items + b".")
    assert not is_tied(folder)
