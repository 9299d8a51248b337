"""The ids that end a text, by a model's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neoxrun.config.end_ids import read_end_ids
from neoxrun.config.reader import load_settings
from neoxrun.errors import CheckpointError


def write(folder: Path, name: str, ends: object) -> None:
    (folder / name).write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        (None, None, ()),
        (None, 5, (5,)),
        ([7, 5, 7], 2, (7, 5)),
        ([], 2, (2,)),
        (0, [1], (0,)),
        ("<e>", True, ()),
    ],
)
def test_generation_config_counts_first(
    generation: object, config: object, ends: tuple[int, ...], tmp_path: Path
) -> None:
    assert read_end_ids(tmp_path) == ()
    write(tmp_path, "generation_config.json", generation)
    write(tmp_path, "config.json", config)
    assert read_end_ids(tmp_path) == ends
    assert load_settings(["demo"], checkpoint=str(tmp_path)).end_ids == ends


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "unreadable_checkpoint"),
        ("[]", "damaged_file"),
        ("version https://git-lfs", "damaged_file"),
    ],
)
def test_a_damaged_file_is_refused(text: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_end_ids(tmp_path)
    assert caught.value.code == code
