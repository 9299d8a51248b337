"""What people are told to do after a run has gone wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from neoxrun.checkpoint.files import read_safetensors
from neoxrun.errors import CheckpointError
from neoxrun.training.folder import RunFolder
from neoxrun.training.ways_on import after_damage, after_divergence, reading_checkpoint, state_file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with checkpoints of steps 2 and 10."""
    folder = RunFolder(tmp_path)
    for step in (2, 10):
        state = state_file(folder.begin(step), 0)
        state.parent.mkdir()
        state.write_bytes(bytes(9))
        folder.publish(step, {})
    return tmp_path


def test_after_divergence_other_settings_or_an_older_checkpoint(run: Path) -> None:
    assert after_divergence(None) == "No checkpoint was written before."
    kept = run / "global_step10"
    assert after_divergence(kept) == (
        f"{kept} is kept: --resume-anyway continues from it with other settings. If it diverges again, move that "
        "folder away, which leaves global_step2."
    )
    assert after_divergence(run / "global_step2").endswith("If it diverges again, start over in another folder.")


def test_after_damage_the_checkpoint_before_it(run: Path) -> None:
    newest = run / "global_step10"
    assert after_damage(newest) == f"Move {newest} elsewhere: --resume then continues from global_step2."
    assert after_damage(run / "global_step2").startswith("There is no older checkpoint: start over in another folder")


def test_a_checkpoint_without_its_state_is_no_way_on(run: Path) -> None:
    shutil.rmtree(run / "global_step2" / "training")
    assert after_damage(run / "global_step10").startswith("There is no older checkpoint")


def test_the_error_of_a_damaged_file_names_the_way_on(run: Path) -> None:
    newest = run / "global_step10"
    with pytest.raises(CheckpointError, match="not a complete") as error, reading_checkpoint(newest):
        read_safetensors(state_file(newest, 0))
    assert error.value.hint == after_damage(newest)
    for other in (None, run / "global_step2"):
        with pytest.raises(CheckpointError) as error, reading_checkpoint(other):
            read_safetensors(state_file(newest, 0))
        assert error.value.hint == "Copy or download the file again."
