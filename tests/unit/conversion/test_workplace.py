"""A folder gets its name when it is whole; what was begun is continued by the same conversion only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from neoxrun.conversion.workplace import open_workplace
from neoxrun.errors import DataError, UsageError


def test_a_folder_grows_and_gets_its_name(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with open_workplace(target, {"a": 1}) as work:
        assert not work.resumed
        work.write_text("notes/one.txt", "text")
        work.save("two.pt", {"x": torch.ones(2)})
        assert not target.exists()
        work.publish(target)
    assert sorted(path.name for path in target.iterdir()) == ["notes", "two.pt"]
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_the_same_conversion_continues(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with open_workplace(target, {"a": 1}) as work:
        work.write_text("one.txt", "text")
        work.begin("half.txt").write_text("ha")
    with open_workplace(target, {"a": 1}) as work:
        assert work.resumed
        assert work.has("one.txt")
        assert not work.has("half.txt")
    with pytest.raises(UsageError) as caught, open_workplace(target, {"a": 2}):
        pass
    assert caught.value.code == "conflicting_options"


def test_a_folder_that_lacked_only_its_name_continues(tmp_path: Path) -> None:
    folder = tmp_path / "model.partial"
    folder.mkdir()
    (folder / "neoxrun.receipt.json").write_text(json.dumps({"job": {"a": 1}}))
    with open_workplace(tmp_path / "model", {"a": 1}) as work:
        assert work.resumed


def test_nobody_else_writes_into_it(tmp_path: Path) -> None:
    with open_workplace(tmp_path / "model", {}):
        with pytest.raises(DataError) as caught, open_workplace(tmp_path / "model", {}):
            pass
        assert caught.value.code == "folder_in_use"


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_exists_is_not_touched(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "model"
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
        (target / "mine").touch()
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError) as caught, open_workplace(target, {}):
        pass
    assert caught.value.code == "existing_target"
    assert not (tmp_path / "model.partial").exists()


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path / "file" / "target", Path("/dev/full/target")):
        with pytest.raises(DataError) as caught, open_workplace(target, {"a": 1}):
            pass
        assert caught.value.code == "unwritable_file"
        assert caught.value.hint == "Name a folder that can be written, or make this one writable."


def test_an_empty_folder_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with open_workplace(tmp_path / "model", {}) as work:
        work.write_text("one.txt", "text")
        work.publish(tmp_path / "model")
    assert (tmp_path / "model" / "one.txt").read_text() == "text"


def test_room_is_asked_for_before_the_work(tmp_path: Path) -> None:
    with open_workplace(tmp_path / "model", {}) as work:
        work.require(1)
        with pytest.raises(DataError) as caught:
            work.require(1 << 60)
    assert caught.value.code == "disk_full"
