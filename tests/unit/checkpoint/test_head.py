"""A tied head that the files hold apart from the embedding."""

from __future__ import annotations

import json
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
    assert f"{head}.weight in {name} is another matrix" in caplog.text


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


def test_damaged_files_change_nothing(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "model.safetensors", embed_in=EMBEDDING)
    for content in (b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]"):
        (folder / "model.safetensors").write_bytes(content)
        assert is_tied(folder)
