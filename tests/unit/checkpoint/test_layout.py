"""Finding checkpoints by name and size, and saying what is wrong when there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neoxrun.checkpoint.layout import find
from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.errors import CheckpointError
from support.checkpoints import TINY, random_model, tiny


def refusal(folder: Path, config=TINY, iteration=None) -> str:
    with pytest.raises(CheckpointError) as caught:
        find(folder, config, iteration)
    return caught.value.render()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_layer_files(random_model(TINY, 8), tmp_path, tp=2, config=TINY, tag="global_step10")
    return tmp_path


def copy_step(folder: Path, step: int) -> Path:
    target = folder / f"global_step{step}"
    target.mkdir()
    for path in (folder / "global_step10").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_the_load_folder_and_the_step_folder_are_the_same_checkpoint(folder) -> None:
    checkpoint = find(folder, TINY)
    assert (checkpoint.kind, checkpoint.tag, checkpoint.source_tp) == ("layers", "global_step10", 2)
    assert sorted(checkpoint.layer_files) == [0, 2, 3, 5, 6]
    assert checkpoint.total_bytes == sum(path.stat().st_size for path in folder.rglob("*.pt"))
    assert find(folder / "global_step10", TINY) == checkpoint
    assert find(folder, TINY, iteration=10) == checkpoint


def test_latest_and_iteration_choose(folder) -> None:
    copy_step(folder, 9)
    assert find(folder, TINY).tag == "global_step10"
    assert find(folder, TINY, iteration=9).tag == "global_step9"
    message = refusal(folder, iteration=11)
    assert "no checkpoint of iteration 11" in message
    assert "global_step9, global_step10" in message
    assert "iteration 11 was asked for" in refusal(folder / "global_step9", iteration=11)


def test_latest_missing_wrong_or_empty(folder) -> None:
    (folder / "latest").write_text("global_step77\n")
    message = refusal(folder)
    assert "`latest` names 'global_step77'" in message
    assert f"--> {folder / 'latest'}" in message
    assert "has global_step10" in message
    (folder / "latest").write_text(" \n")
    assert "`latest` is empty" in refusal(folder)
    (folder / "latest").write_bytes(b"\xff\xfe")
    assert "cannot read `latest`" in refusal(folder)
    for text in ("\0\1\2", "x" * 300, "global_step10\nglobal_step9"):
        (folder / "latest").write_text(text)
        assert "`latest` does not hold the name of a folder" in refusal(folder)
    (folder / "latest").unlink()
    assert find(folder, TINY).tag == "global_step10", "the only candidate is taken"
    copy_step(folder, 9)
    message = refusal(folder)
    assert "no file `latest`" in message
    assert "--set iteration=10" in message


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("20B_checkpoints", "`neoxrun download`"),
        ("pythia-160m", "`neoxrun download pythia-160m`"),
        ("pythia-2.8b-deduped", "`neoxrun download pythia-2.8b-deduped`"),
        ("mine", "--checkpoint DIR"),
    ],
)
def test_no_folder_or_an_empty_one_names_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name, command
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    message = refusal(folder)
    assert "does not exist" in message
    assert str(folder) in message
    assert command in message
    assert "--checkpoint DIR" in message
    folder.mkdir()
    assert "is empty" in refusal(folder)
    assert command in refusal(folder)
    (folder / "notes.txt").touch()
    assert "no checkpoint in" in refusal(folder)
    assert "notes.txt" in refusal(folder)
    assert "is not a folder" in refusal(folder / "notes.txt")


def test_missing_files_are_named_and_counted(folder) -> None:
    step = folder / "global_step10"
    (step / "layer_03-model_01-model_states.pt").unlink()
    message = refusal(folder)
    assert "1 file is missing from the checkpoint: layer_03-model_01-model_states.pt\n" in message
    for path in step.glob("layer_0[0236]-model_0*"):
        path.unlink(missing_ok=True)
    message = refusal(folder)
    assert "8 files are missing" in message
    (step / "layer_06-model_00-model_states.pt").touch()
    message = refusal(folder)
    assert "7 files are missing" in message
    assert "and 2 more" in message


def test_a_missing_rank_is_seen_by_the_gap(folder) -> None:
    step = folder / "global_step10"
    for path in list(step.glob("*-model_01-*")):
        path.rename(step / path.name.replace("model_01", "model_02"))
    assert "layer_00-model_01-model_states.pt, layer_02-model_01-model_states.pt" in refusal(folder)


def test_an_empty_file_is_refused(folder) -> None:
    path = folder / "global_step10/layer_02-model_01-model_states.pt"
    path.write_bytes(b"")
    assert "is empty (0 bytes)" in refusal(folder)
    assert str(path) in refusal(folder)


def test_a_link_to_nothing_is_refused(folder) -> None:
    path = folder / "global_step10/layer_02-model_01-model_states.pt"
    path.unlink()
    path.symlink_to("../blobs/77")
    message = refusal(folder)
    assert f"{path.name} is a link to ../blobs/77, which is not there" in message
    assert str(path) in message
    assert "download" in message


def test_another_number_of_layers(folder) -> None:
    for layers in (1, 3, 12):
        message = refusal(folder, tiny(num_layers=layers))
        assert f"the checkpoint has 2 transformer layers, the configuration says {layers}" in message


def test_tied_and_untied(folder) -> None:
    assert "no_weight_tying: true" in refusal(folder, tiny(tie_embeddings=True))
    for path in folder.rglob("layer_06*"):
        path.unlink()
    assert "no_weight_tying: false" in refusal(folder)
    assert sorted(find(folder, tiny(tie_embeddings=True)).layer_files) == [0, 2, 3, 5]


def test_names_without_a_rank_are_one_rank(tmp_path: Path) -> None:
    save_layer_files(random_model(TINY, 8), tmp_path, tp=1, config=TINY, tag="global_step10")
    step = tmp_path / "global_step10"
    for path in list(step.iterdir()):
        path.rename(step / path.name.replace("-model_00", ""))
    assert find(tmp_path, TINY).source_tp == 1
    (step / "layer_00-model_00-model_states.pt").touch()
    assert "are both there" in refusal(tmp_path)
    (step / "layer_00-model_00-model_states.pt").unlink()
    (step / "layer_03-model_states.pt").unlink()
    assert "layer_03-model_states.pt" in refusal(tmp_path)


def test_sequential_files_and_their_gaps(tmp_path: Path) -> None:
    for rank in (0, 2):
        (tmp_path / f"mp_rank_{rank:02d}_model_states.pt").write_bytes(b"weights")
    assert "mp_rank_01_model_states.pt" in refusal(tmp_path)
    (tmp_path / "mp_rank_01_model_states.pt").write_bytes(b"weights")
    checkpoint = find(tmp_path, TINY)
    assert (checkpoint.kind, checkpoint.source_tp) == ("sequential", 3)
    assert [path.name[8:10] for path in checkpoint.files] == ["00", "01", "02"]


def test_mp_rank_files_beside_layer_files_are_not_read(folder) -> None:
    (folder / "global_step10/mp_rank_00_model_states.pt").write_bytes(b"")
    assert find(folder, TINY).kind == "layers"


def test_zero_3_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt").touch()
    assert "ZeRO stage 3" in refusal(tmp_path)


def test_hugging_face_folders_with_something_missing(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.touch()
    assert "no config.json" in refusal(tmp_path)
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
    assert "is empty (0 bytes)" in refusal(tmp_path)
    assert "one model only" in refusal(tmp_path, iteration=1)
    weights.unlink()
    assert "no checkpoint in" in refusal(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    assert "no weight_map" in refusal(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    (tmp_path / "model-1.safetensors").write_bytes(b"weights")
    assert "1 file is missing from the checkpoint: model-2.safetensors" in refusal(tmp_path)


def test_finding_needs_no_torch() -> None:
    code = "import sys, neoxrun.checkpoint.layout; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
