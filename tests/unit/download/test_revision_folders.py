"""Revisions on disk one after the other, from a hub on loopback, with whatever can go wrong in between."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from neoxrun.download import fetch
from neoxrun.download.catalog import Model
from neoxrun.download.http import HttpOptions
from neoxrun.download.revision_folders import MARK, RevisionOptions, fetch_in_turn
from neoxrun.download.revisions import Revision, look_up_revisions
from neoxrun.errors import DataError, NetworkError
from support.faulty_server import Fault, wait_until
from support.hub_server import HubRepository, HubServer
from support.revisions import NAME, weights_at

STEPS = ["step0", "step1", "step2"]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    files = {
        name: {"model.safetensors": (8).to_bytes(8, "little") + b"{}      ", "config.json": json.dumps(name).encode()}
        for name in STEPS
    }
    with HubServer({NAME: HubRepository(files)}) as one:
        monkeypatch.setattr(constants, "ENDPOINT", one.url)
        yield one


@pytest.fixture
def revisions(server: HubServer) -> list[Revision]:
    return look_up_revisions(NAME, STEPS)


def options(folder: Path, *, keep: bool = False) -> RevisionOptions:
    impatient = HttpOptions(tries=2, few_tries=2, backoff=0.01, stall_timeout=1)
    return RevisionOptions(Model(NAME, "tiny", hub=NAME), folder, keep=keep, http=impatient, show=False)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("tiny-*")}


def test_the_next_arrives_meanwhile_and_the_last_is_removed(revisions: list[Revision], tmp_path: Path) -> None:
    seen = []
    for revision, folder in fetch_in_turn(revisions, options(tmp_path)):
        assert (folder / "config.json").read_text() == json.dumps(revision.name)
        following = {"step0": "step1", "step1": "step2"}.get(revision.name)
        if following is not None:
            assert wait_until((tmp_path / f"tiny-{following}" / "config.json").exists)
        assert names(tmp_path) == {f"tiny-{name}" for name in (revision.name, following) if name}
        seen.append(revision.name)
    assert seen == STEPS
    assert names(tmp_path) == set()


def test_kept_folders_have_no_mark(revisions: list[Revision], tmp_path: Path) -> None:
    list(fetch_in_turn(revisions, options(tmp_path, keep=True)))
    assert names(tmp_path) == {f"tiny-{name}" for name in STEPS}
    assert not list(tmp_path.glob(f"*/{MARK}"))
    list(fetch_in_turn(revisions, options(tmp_path)))
    assert names(tmp_path) == {f"tiny-{name}" for name in STEPS}, "they are the user's now"


def test_what_an_early_end_leaves_is_used_or_removed(revisions: list[Revision], tmp_path: Path) -> None:
    turn = fetch_in_turn(revisions, options(tmp_path))
    next(turn)
    turn.close()
    assert names(tmp_path) == {"tiny-step0", "tiny-step1"}
    (_, folder) = next(fetch_in_turn(revisions[2:], options(tmp_path)))
    assert names(tmp_path) == {folder.name} == {"tiny-step2"}
    foreign = tmp_path / "tiny-step9"
    foreign.mkdir()
    (foreign / MARK).write_text("another/one\n")
    assert list(fetch_in_turn([], options(tmp_path))) == []
    assert names(tmp_path) == {"tiny-step9"}, "the mark of another repository"


def test_a_failure_comes_after_what_was_complete(server: HubServer, revisions: list[Revision], tmp_path: Path) -> None:
    server.cdn.faults[weights_at("step1")] = [Fault("status", 403)] * 9
    turn = fetch_in_turn(revisions, options(tmp_path))
    assert next(turn)[0].name == "step0"
    with pytest.raises(NetworkError) as caught:
        next(turn)
    assert caught.value.message.startswith("step1: model.safetensors cannot be fetched")
    assert (caught.value.hint or "").endswith("The same command continues: what was finished is kept.")
    assert names(tmp_path) == {"tiny-step1"}
    server.cdn.faults.clear()
    assert [revision.name for revision, _ in fetch_in_turn(revisions[1:], options(tmp_path))] == STEPS[1:]
    assert names(tmp_path) == set()


def test_two_commands_do_not_share_a_folder(revisions: list[Revision], tmp_path: Path) -> None:
    folder = tmp_path / "tiny-step0"
    folder.mkdir()
    with (folder / MARK).open("w") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        with pytest.raises(DataError) as caught:
            next(fetch_in_turn(revisions, options(tmp_path)))
    assert caught.value.code == "folder_in_use"
    assert "--revisions-dir" in (caught.value.hint or "")


def test_a_locked_folder_holds_up_only_its_own_revision(revisions: list[Revision], tmp_path: Path) -> None:
    folder = tmp_path / "tiny-step1"
    folder.mkdir()
    with (folder / MARK).open("w") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        turn = fetch_in_turn(revisions, options(tmp_path))
        assert next(turn)[0].name == "step0"
        with pytest.raises(DataError) as caught:
            next(turn)
        assert caught.value.message.startswith("step1: another neoxrun")
        assert caught.value.code == "folder_in_use"
        turn = fetch_in_turn(revisions, options(tmp_path))
        assert next(turn)[0].name == "step0"
    assert [revision.name for revision, _ in turn] == ["step1", "step2"], "the other has ended meanwhile"
    assert names(tmp_path) == set()


def test_every_revision_has_a_folder_of_its_own(revisions: list[Revision], tmp_path: Path) -> None:
    branches = ["step0", "a/b", "a-b", "a%2Fb", "a+b", "é", "è"]
    folders = {options(tmp_path).folder(replace(revisions[0], name=name)) for name in branches}
    assert len(folders) == len(branches)
    assert {folder.parent for folder in folders} == {tmp_path}
    assert tmp_path / "tiny-step0" in folders


def test_only_real_folders_are_removed(revisions: list[Revision], tmp_path: Path) -> None:
    theirs, parent = tmp_path / "theirs", tmp_path / "revisions"
    theirs.mkdir()
    (theirs / MARK).write_text(f"{NAME}\n")
    (theirs / "notes").write_text("mine")
    for name in ("tiny-step7", "tiny-step0"):  # one that is left, and one that is needed
        parent.mkdir(exist_ok=True)
        (parent / name).symlink_to(theirs)
    seen = [revision.name for revision, _ in fetch_in_turn(revisions[:1], options(parent))]
    assert seen == ["step0"]
    assert names(parent) == {"tiny-step7", "tiny-step0"}
    assert (theirs / "notes").read_text() == "mine"
    assert (theirs / MARK).exists()


def test_a_folder_that_cannot_be_removed_is_reported(
    tmp_path: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Path) -> None:
        raise OSError("no reason given")

    left = tmp_path / "tiny-step9"
    left.mkdir()
    (left / MARK).write_text(f"{NAME}\n")
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert list(fetch_in_turn([], options(tmp_path))) == []
    assert "cannot be removed: no reason given" in caplog.text
    monkeypatch.setattr(shutil, "rmtree", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(fetch_in_turn([], options(tmp_path)))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_mark_that_is_no_text_is_of_another(tmp_path: Path, server: HubServer) -> None:
    foreign = tmp_path / "tiny-step9"
    foreign.mkdir()
    (foreign / MARK).write_bytes(b"\xff\xfe")
    assert list(fetch_in_turn([], options(tmp_path))) == []
    assert names(tmp_path) == {"tiny-step9"}


def test_room_for_one_is_enough(revisions: list[Revision], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")

    def room(folder: Path) -> usage:
        full = len(names(tmp_path)) > 1 or not names(tmp_path)
        return usage(0, 0, 0 if full else 1 << 40)

    monkeypatch.setattr(fetch.shutil, "disk_usage", room)
    seen = [revision.name for revision, _ in fetch_in_turn(revisions, options(tmp_path))]
    assert seen == STEPS
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage(0, 0, 0))
    with pytest.raises(DataError) as caught:
        next(fetch_in_turn(revisions, options(tmp_path)))
    assert caught.value.code == "disk_full"
    assert caught.value.message.startswith("step0: the disk is too small")
    assert "--revisions-dir" in (caught.value.hint or "")
    shutil.rmtree(tmp_path / "tiny-step0")
