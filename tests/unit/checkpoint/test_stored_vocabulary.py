"""The rows of a checkpoint's vocabulary without loading anything: those that the loader finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.checkpoint.load import read_vocab_rows
from neoxrun.checkpoint.stored_vocabulary import stored_vocab_rows
from support.checkpoints import fixture_config
from support.paths import FIXTURES


@pytest.mark.parametrize("name", ["tp1", "tp2_native"])
def test_the_rows_of_layer_files(name: str) -> None:
    config = fixture_config(FIXTURES / name)
    checkpoint = find_checkpoint(FIXTURES / name, config)
    assert stored_vocab_rows(checkpoint) == read_vocab_rows(checkpoint, config) == 512


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_the_rows_of_hugging_face_files(name: str, tmp_path: Path) -> None:
    """In one of several files."""
    path, other = tmp_path / name, tmp_path / f"b{name[1:]}"
    save = save_file if path.suffix == ".safetensors" else torch.save
    save({"gpt_neox.embed_in.weight": torch.zeros(9, 2)}, path)
    save({"embed_out.weight": torch.zeros(8, 2)}, other)
    assert stored_vocab_rows(Checkpoint("huggingface", tmp_path, "x", 1, (other, path), 1)) == 9


def layer(path: Path, value: object) -> Checkpoint:
    torch.save(value, path)
    return Checkpoint("layers", path.parent, "x", 1, (path,), 1, {0: (path,)})


def test_parameters_and_files_that_do_not_tell(tmp_path: Path) -> None:
    path, name = tmp_path / "layer_00-model_00-model_states.pt", "word_embeddings.weight"
    assert stored_vocab_rows(layer(path, {name: nn.Parameter(torch.zeros(7, 2))})) == 7
    for value in ({name: torch.zeros(7)}, {name: 3}, {"other": torch.zeros(7, 2)}, [1]):
        assert stored_vocab_rows(layer(path, value)) is None
    assert stored_vocab_rows(Checkpoint("sequential", tmp_path, "x", 1, (path,), 1)) is None
