"""Which folder holds the checkpoint, and what is wrong when none does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neoxrun.checkpoint.find import find_checkpoint, find_whole_checkpoint
from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import ModelConfig
from neoxrun.errors import CheckpointError
from support.checkpoints import TINY, random_model


def refusal(folder: Path, config: ModelConfig = TINY, iteration: int | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(folder, config, iteration)
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


def test_the_load_folder_and_the_step_folder_are_the_same_checkpoint(folder: Path) -> None:
    checkpoint = find_checkpoint(folder, TINY)
    assert (checkpoint.kind, checkpoint.tag, checkpoint.source_tp) == ("layers", "global_step10", 2)
    assert sorted(checkpoint.layer_files) == [0, 2, 3, 5, 6]
    assert checkpoint.total_bytes == sum(path.stat().st_size for path in folder.rglob("*.pt"))
    assert find_checkpoint(folder / "global_step10", TINY) == checkpoint
    assert find_checkpoint(folder, TINY, iteration=10) == checkpoint


def test_latest_and_iteration_choose(folder: Path) -> None:
    copy_step(folder, 9)
    assert find_checkpoint(folder, TINY).tag == "global_step10"
    assert find_checkpoint(folder, TINY, iteration=9).tag == "global_step9"
    message = refusal(folder, iteration=11)
    assert "no checkpoint of iteration 11" in message
    assert "global_step9, global_step10" in message
    assert "iteration 11 was requested" in refusal(folder / "global_step9", iteration=11)


def test_latest_missing_wrong_or_empty(folder: Path) -> None:
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
    assert find_checkpoint(folder, TINY).tag == "global_step10", "the only candidate is taken"
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str
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


def test_finding_needs_no_torch() -> None:
    code = "import sys, neoxrun.checkpoint.find; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_that_is_cut_short_is_found_without_its_tensors(folder: Path, tmp_path: Path) -> None:
    settings = replace(load_settings(["demo"]), model=TINY, checkpoint=folder)
    assert find_whole_checkpoint(settings) == find_checkpoint(folder, TINY)
    path = folder / "global_step10/layer_03-model_01-model_states.pt"
    whole = path.read_bytes()
    for content, code, says in (
        (whole[:-1], "damaged_file", "cut short"),
        (whole[: len(whole) // 2], "damaged_file", "cut short"),
        (b"<!DOCTYPE html>", "damaged_file", "web page"),
        (b"weights", "damaged_file", "not a file written by torch.save"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=says) as caught:
            find_whole_checkpoint(settings)
        assert (caught.value.code, caught.value.where) == (code, str(path))
    tensors = torch.load(folder / "global_step10/layer_03-model_00-model_states.pt", weights_only=True)
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    find_whole_checkpoint(settings)  # it does not say where it ends
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="Is a directory") as caught:
        find_whole_checkpoint(settings)
    assert caught.value.code == "unreadable_checkpoint"
