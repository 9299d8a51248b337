"""The files that hold a Hugging Face folder's weights: one form of them, and all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neoxrun.checkpoint.huggingface_files import has_hugging_face_files, hugging_face_files
from neoxrun.errors import CheckpointError


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.fp16.safetensors", "model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["model.fp16.safetensors", "pytorch_model.bin"], ["model.fp16.safetensors"]),
        (["pytorch_model.bin", "pytorch_model.bf16.bin"], ["pytorch_model.bin"]),
        (["model.safetensors.index.fp16.json", "pytorch_model.bin"], ["model.fp16-1.safetensors"]),
        (["training_args.bin", "optimizer.bin", "pytorch_model.fp16.bin"], ["pytorch_model.fp16.bin"]),
    ],
)
def test_one_form_of_the_weights_is_read(names: list[str], chosen: list[str], tmp_path: Path) -> None:
    for name in (*names, *chosen):
        (tmp_path / name).write_text(json.dumps({"weight_map": {"a": "model.fp16-1.safetensors"}}))
    assert hugging_face_files(tmp_path, sorted(names)) == chosen


@pytest.mark.parametrize("named", ["{outside}", "../outside.bin", "sub/model.bin", "..", "", None, 3, ["model.bin"]])
def test_an_index_names_no_files_elsewhere(named: object, tmp_path: Path) -> None:
    outside = tmp_path / "outside.bin"
    outside.write_bytes(b"private")
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "model.bin").write_bytes(b"weights")
    if named == "{outside}":
        named = str(outside)
    name = "pytorch_model.bin.index.json"
    (folder / name).write_text(json.dumps({"weight_map": {"a": named}}))
    with pytest.raises(CheckpointError) as caught:
        hugging_face_files(folder, [name])
    assert caught.value.code == "damaged_file"
    assert "not a file in its folder" in caught.value.message


def numbered(count: int, of: int, name: str = "model-{}-of-{}.safetensors") -> list[str]:
    return [name.format(f"{number:05d}", f"{of:05d}") for number in range(1, count + 1)]


@pytest.mark.parametrize(
    "form", ["model-{}-of-{}.safetensors", "pytorch_model-{}-of-{}.bin", "model.fp16-{}-of-{}.safetensors"]
)
def test_numbered_files_need_no_index(form: str, tmp_path: Path) -> None:
    names = numbered(3, 3, form)
    for name in names:
        (tmp_path / name).write_bytes(b"weights")
    assert has_hugging_face_files(names)
    assert hugging_face_files(tmp_path, names) == names
    (tmp_path / names[1]).unlink()
    with pytest.raises(CheckpointError, match=f"1 file is missing from the checkpoint: {names[1]}") as caught:
        hugging_face_files(tmp_path, [names[0], names[2]])
    assert caught.value.code == "missing_shard"


def test_an_index_or_a_single_file_comes_before_numbered_ones(tmp_path: Path) -> None:
    """Parts of an interrupted download do not stand for the model."""
    names = [*numbered(1, 2), "pytorch_model.bin"]
    for name in names:
        (tmp_path / name).write_bytes(b"weights")
    assert hugging_face_files(tmp_path, names) == ["pytorch_model.bin"]


def test_parts_of_two_models(tmp_path: Path) -> None:
    names = [*numbered(2, 2), *numbered(3, 3)]
    with pytest.raises(CheckpointError, match="model-\\*-of-00002 and model-\\*-of-00003") as caught:
        hugging_face_files(tmp_path, names)
    assert caught.value.code == "mixed_checkpoints"
