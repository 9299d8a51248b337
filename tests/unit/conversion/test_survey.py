"""A survey needs no configuration, and notes what a load would refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from neoxrun.config.tensors import TensorKey, divided_dim
from neoxrun.conversion.convert import convert
from neoxrun.conversion.survey import survey_folder
from neoxrun.errors import CheckpointError
from support.checkpoints import tiny
from support.conversions import make_folder, order
from support.paths import FIXTURES

STEP = "global_step7"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "source", tiny(), tp=2)


def layer(folder: Path, number: int, rank: int) -> Path:
    return folder / STEP / f"layer_{number:02d}-model_{rank:02d}-model_states.pt"


@pytest.mark.parametrize(
    ("name", "kind", "tp"),
    [("tp1", "layers", 1), ("tp2_legacy_20b", "layers", 2), ("tp2_sequential", "sequential", 2)],
)
def test_what_is_there(name: str, kind: str, tp: int) -> None:
    survey = survey_folder(FIXTURES / name)
    assert (survey.kind, survey.tp, survey.num_layers, survey.odd) == (kind, tp, 3, [])
    hidden, rows = 64, 512
    assert survey.shape(0, "word_embeddings.weight") == (rows, hidden)
    assert survey.shape(2, "attention.dense.weight") == (hidden, hidden)
    assert survey.parameters == 2 * rows * hidden + 3 * (12 * hidden**2 + 13 * hidden) + 2 * hidden
    assert 0 < survey.read_bytes < survey.tensor_bytes / 10
    assert survey_folder(FIXTURES / name, full=True).read_bytes == survey.tensor_bytes


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    convert(order(FIXTURES / "tp1", tmp_path / "hf", "huggingface", shard_size=100_000))
    survey = survey_folder(tmp_path / "hf")
    plain = survey_folder(FIXTURES / "tp1")
    assert (survey.kind, survey.tp, survey.odd) == ("huggingface", 1, [])
    assert survey.tensors.keys() == plain.tensors.keys()
    assert survey.parameters == plain.parameters
    next((tmp_path / "hf").glob("model-00002*")).unlink()
    (tmp_path / "hf" / "pytorch_model.bin").touch()
    text = " ".join(survey_folder(tmp_path / "hf").odd)
    assert "missing from the checkpoint: model-00002" in text
    assert "twice: pytorch_model.bin" in text


def test_drift_is_measured(tmp_path: Path) -> None:
    survey = survey_folder(FIXTURES / "tp2_native")
    path = FIXTURES / "tp2_native" / "global_step150000"
    one, other = (torch.load(path / f"layer_03-model_{rank:02d}-model_states.pt", weights_only=True) for rank in (0, 1))
    name = "input_layernorm.weight"
    assert survey.tensors[TensorKey(3, name)].drift == pytest.approx(float((one[name] - other[name]).abs().max()))
    assert survey.tensors[TensorKey(3, "attention.query_key_value.bias")].drift is None


def change(path: Path, name: str, value: float) -> None:
    content = torch.load(path, weights_only=True)
    content[name].view(-1)[3] = value
    torch.save(content, path)


def test_what_is_odd(folder: Path) -> None:
    change(layer(folder, 2, 0), "attention.query_key_value.bias", float("nan"))
    change(layer(folder, 3, 0), "mlp.dense_4h_to_h.weight", float("inf"))
    (folder / STEP / "model.gguf").write_bytes(b"GGUF")
    odd = survey_folder(folder).odd
    assert len(odd) == 2, "a matrix is not read"
    assert "Layer 02, attention.query_key_value.bias: 1 numbers are NaN" in odd[0]
    assert "model.gguf" in odd[1]
    full = survey_folder(folder, full=True).odd
    assert any("Layer 03, mlp.dense_4h_to_h.weight" in text for text in full)


def test_a_copied_rank_is_noticed(folder: Path) -> None:
    shutil.copy(layer(folder, 2, 0), layer(folder, 2, 1))
    odd = survey_folder(folder).odd
    assert odd
    assert all("Layer 02" in text and "is a file a copy?" in text for text in odd)


def test_missing_files(folder: Path) -> None:
    layer(folder, 2, 1).unlink()
    layer(folder, 5, 0).unlink()
    layer(folder, 5, 1).unlink()
    odd = " ".join(survey_folder(folder).odd)
    assert "Layer 02 lacks the files of these ranks: 1." in odd


def test_a_missing_last_rank_shows_in_the_shapes(folder: Path) -> None:
    for path in (folder / STEP).glob("*-model_01-*"):
        path.unlink()
    odd = survey_folder(folder).odd
    assert odd == ["The shapes are those of 2 ranks, of which 1 have no file: the model is incomplete."]


def test_two_files_of_one_part(folder: Path) -> None:
    shutil.copy(layer(folder, 2, 0), folder / STEP / "layer_02-model_states.pt")
    assert any("same part of the model" in text for text in survey_folder(folder).odd)


def test_a_damaged_file_is_noted(folder: Path) -> None:
    layer(folder, 3, 1).write_bytes(layer(folder, 3, 1).read_bytes()[:2000])
    assert any("layer_03-model_01-model_states.pt is damaged" in text for text in survey_folder(folder).odd)


def test_links_to_nothing(folder: Path) -> None:
    for number, target in ((3, "nowhere"), (2, layer(folder, 2, 1).name)):
        path = layer(folder, number, 1)
        path.unlink()
        path.symlink_to(target)
    odd = " ".join(survey_folder(folder).odd)
    assert "layer_03-model_01-model_states.pt cannot be read: No such file or directory." in odd
    assert "layer_02-model_01-model_states.pt cannot be read: Too many levels of symbolic links." in odd


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        survey_folder(tmp_path)
    assert caught.value.code == "missing_checkpoint"


def test_names_tell_how_ranks_divide() -> None:
    assert divided_dim("attention.query_key_value.bias") == 0
    assert divided_dim("mlp.dense_4h_to_h.weight") == 1
    assert divided_dim("mlp.dense_4h_to_h.bias") is None
    assert divided_dim("word_embeddings.weight") == 0
    assert divided_dim("norm.weight") is None
