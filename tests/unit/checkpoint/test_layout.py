"""The files of each kind of checkpoint: all present, or the missing and foreign ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.config.settings import ModelConfig
from neoxrun.errors import CheckpointError
from support.checkpoints import TINY, random_model, tiny


def refusal(folder: Path, code: str, config: ModelConfig = TINY, iteration: int | None = None) -> str:
    """What the error of this code says and advises."""
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(folder, config, iteration)
    assert caught.value.code == code
    return caught.value.render()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_layer_files(random_model(TINY, 8), tmp_path, tp=2, config=TINY, tag="global_step10")
    return tmp_path


def test_missing_files_are_named_and_counted(folder: Path) -> None:
    step = folder / "global_step10"
    (step / "layer_03-model_01-model_states.pt").unlink()
    message = refusal(folder, "missing_shard")
    assert "1 file" in message
    assert ": layer_03-model_01-model_states.pt\n" in message
    for path in step.glob("layer_0[0236]-model_0*"):
        path.unlink(missing_ok=True)
    message = refusal(folder, "missing_shard")
    assert "8 files" in message
    (step / "layer_06-model_00-model_states.pt").touch()
    message = refusal(folder, "missing_shard")
    assert "7 files" in message
    assert "and 2 more" in message


def test_a_missing_rank_is_seen_by_the_gap(folder: Path) -> None:
    step = folder / "global_step10"
    for path in list(step.glob("*-model_01-*")):
        path.rename(step / path.name.replace("model_01", "model_02"))
    assert "layer_00-model_01-model_states.pt, layer_02-model_01-model_states.pt" in refusal(folder, "missing_shard")


def test_an_empty_file_is_refused(folder: Path) -> None:
    path = folder / "global_step10/layer_02-model_01-model_states.pt"
    path.write_bytes(b"")
    message = refusal(folder, "damaged_file")
    assert path.name in message
    assert "0 bytes" in message
    assert str(path) in message


def test_a_link_to_nothing_is_refused(folder: Path) -> None:
    path = folder / "global_step10/layer_02-model_01-model_states.pt"
    path.unlink()
    path.symlink_to("../blobs/77")
    message = refusal(folder, "missing_shard")
    assert path.name in message
    assert "../blobs/77" in message
    assert str(path) in message
    assert "download" in message


def test_another_number_of_layers(folder: Path) -> None:
    for layers in (1, 3, 12):
        message = refusal(folder, "mismatched_configuration", tiny(num_layers=layers))
        assert "2 transformer layers" in message
        assert f"num_layers is {layers}" in message


def test_tied_and_untied(folder: Path) -> None:
    assert "no_weight_tying: true" in refusal(folder, "mismatched_configuration", tiny(tie_embeddings=True))
    for path in folder.rglob("layer_06*"):
        path.unlink()
    assert "no_weight_tying: false" in refusal(folder, "missing_shard")
    assert sorted(find_checkpoint(folder, tiny(tie_embeddings=True)).layer_files) == [0, 2, 3, 5]


def test_names_without_a_rank_are_one_rank(tmp_path: Path) -> None:
    save_layer_files(random_model(TINY, 8), tmp_path, tp=1, config=TINY, tag="global_step10")
    step = tmp_path / "global_step10"
    for path in list(step.iterdir()):
        path.rename(step / path.name.replace("-model_00", ""))
    assert find_checkpoint(tmp_path, TINY).source_tp == 1
    (step / "layer_00-model_00-model_states.pt").touch()
    message = refusal(tmp_path, "mixed_checkpoints")
    assert "layer_00-model_states.pt" in message
    assert "layer_00-model_00-model_states.pt" in message
    (step / "layer_00-model_00-model_states.pt").unlink()
    (step / "layer_03-model_states.pt").unlink()
    assert "layer_03-model_states.pt" in refusal(tmp_path, "missing_shard")


def test_sequential_files_and_their_gaps(tmp_path: Path) -> None:
    for rank in (0, 2):
        (tmp_path / f"mp_rank_{rank:02d}_model_states.pt").write_bytes(b"weights")
    assert "mp_rank_01_model_states.pt" in refusal(tmp_path, "missing_shard")
    (tmp_path / "mp_rank_01_model_states.pt").write_bytes(b"weights")
    checkpoint = find_checkpoint(tmp_path, TINY)
    assert (checkpoint.kind, checkpoint.source_tp) == ("sequential", 3)
    assert [path.name[8:10] for path in checkpoint.files] == ["00", "01", "02"]


def test_mp_rank_files_next_to_layer_files_are_not_read(folder: Path) -> None:
    (folder / "global_step10/mp_rank_00_model_states.pt").write_bytes(b"")
    assert find_checkpoint(folder, TINY).kind == "layers"


def test_zero_3_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt").touch()
    assert "ZeRO stage 3" in refusal(tmp_path, "unsupported_checkpoint")


def test_hugging_face_folders_with_something_missing(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.touch()
    assert "config.json" in refusal(tmp_path, "missing_shard")
    config = {
        "model_type": "gpt_neox",
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "rotary_pct": 0.5,
        "hidden_act": "gelu_fast",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert weights.name in refusal(tmp_path, "damaged_file")
    assert "iteration 1" in refusal(tmp_path, "missing_iteration", iteration=1)
    weights.unlink()
    assert str(tmp_path) in refusal(tmp_path, "missing_checkpoint")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    assert "weight_map" in refusal(tmp_path, "damaged_file")
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    (tmp_path / "model-1.safetensors").write_bytes(b"weights")
    assert ": model-2.safetensors" in refusal(tmp_path, "missing_shard")
