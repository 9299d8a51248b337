"""A folder is that of one run, and of one process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neoxrun.checkpoint.neox_run import NeoxRun
from neoxrun.errors import DataError, UsageError
from neoxrun.training.opening import check_not_in_use, check_run_folder, open_run_folder, write_settings

MADE: dict[str, Any] = {"version": "1", "training": {"lr": 0.1, "keep": 2}}


def test_a_new_run_may_have_a_cache_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    assert check_run_folder(tmp_path, MADE, resume=False, anyway=False) == []
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"something else than a run: thesis\.tex") as error:
        check_run_folder(tmp_path, MADE, resume=True, anyway=True)
    assert error.value.code == "existing_target"
    with pytest.raises(DataError, match="not a folder"):
        check_run_folder(tmp_path / "thesis.tex", MADE, resume=False, anyway=False)


def test_a_run_is_continued_only_where_that_is_asked_for(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, MADE, resume=False, anyway=False) as folder:
        folder.begin(1)
        folder.publish(1, {})
    with pytest.raises(DataError, match="holds a run already") as error:
        check_run_folder(tmp_path, MADE, resume=False, anyway=True)
    assert "--resume" in str(error.value.hint)
    assert check_run_folder(tmp_path, MADE, resume=True, anyway=False) == []


def test_other_settings_are_named_refused_and_allowed(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, MADE, resume=False, anyway=False) as folder:
        folder.begin(7)
        folder.publish(7, {})
    other = {**MADE, "training": {"lr": 0.2, "keep": 9}}
    with pytest.raises(DataError, match=r"other settings or data: lr was 0\.1, is 0\.2\n") as error:
        check_run_folder(tmp_path, other, resume=True, anyway=False)
    assert error.value.code == "different_run"
    before = (tmp_path / "settings.json").read_text()
    with open_run_folder(tmp_path, other, resume=True, anyway=True) as folder:
        assert (tmp_path / "settings.json").read_text() == before, "something may still keep it from being continued"
        write_settings(folder, other)
    written = json.loads((tmp_path / "settings.json").read_text())
    assert written["training"]["lr"] == 0.2
    assert written["earlier"] == [{"until_step": 7, "was": ["lr was 0.1, is 0.2"]}]
    with open_run_folder(tmp_path, other, resume=True, anyway=False) as folder:
        write_settings(folder, other)
    assert len(json.loads((tmp_path / "settings.json").read_text())["earlier"]) == 1


@pytest.mark.parametrize("resume", [False, True])
def test_checkpoints_that_cannot_be_continued_are_not_written_over(tmp_path: Path, resume: bool) -> None:
    """As after an incomplete copy; a run that continues GPT-NeoX's may share a folder with its checkpoints."""
    neox = NeoxRun(tmp_path / "global_step4", 4, (), (), {})

    def check(continued: NeoxRun | None) -> list[str]:
        return check_run_folder(tmp_path, made, resume=resume, anyway=resume, continued=continued)

    neox.folder.mkdir()
    made = {**MADE, "continued": {"iteration": 4}}
    with open_run_folder(tmp_path, made, resume=False, anyway=False, continued=neox):
        pass  # a start that comes to no checkpoint
    (tmp_path / "metrics.jsonl").touch()  # its own
    assert check(neox) == []
    for continued in (None, replace(neox, iteration=3)):
        with pytest.raises(DataError, match="not whole checkpoints of its run: global_step4") as error:
            check(continued)
        assert error.value.code == "existing_target"
    (tmp_path / "global_step9").mkdir()  # as GPT-NeoX continues
    with pytest.raises(DataError, match="not whole checkpoints of its run: global_step9"):
        check(neox)


def test_a_run_that_has_checkpoints_is_not_continued_below_those_of_others(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, MADE, resume=False, anyway=False) as folder:
        folder.begin(6)
        folder.publish(6, {})
    (tmp_path / "global_step5").mkdir()
    assert check_run_folder(tmp_path, MADE, resume=True, anyway=False) == []
    (tmp_path / "global_step7").mkdir()
    with pytest.raises(DataError, match="not whole checkpoints of its run: global_step7"):
        check_run_folder(tmp_path, MADE, resume=True, anyway=True)


def test_a_run_without_a_checkpoint_gives_way_to_another(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, MADE, resume=False, anyway=False):
        pass
    other = {**MADE, "training": {"lr": 0.2, "keep": 9}}
    with open_run_folder(tmp_path, other, resume=False, anyway=False):
        pass
    assert json.loads((tmp_path / "settings.json").read_text()) == other


def test_a_run_has_no_fewer_steps_than_are_done(tmp_path: Path) -> None:
    def made(steps: int) -> dict[str, Any]:
        return {"training": {"train_iters": steps}}

    with open_run_folder(tmp_path, made(6), resume=False, anyway=False) as folder:
        folder.begin(6)
        folder.publish(6, {})
    with pytest.raises(UsageError, match="the run has 6 steps already, more than the 4 asked for"):
        check_run_folder(tmp_path, made(4), resume=True, anyway=True)
    assert check_run_folder(tmp_path, made(6), resume=True, anyway=False) == []
    assert check_run_folder(tmp_path, made(7), resume=True, anyway=True) == ["--steps was 6, is 7"]


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    with (
        open_run_folder(tmp_path, MADE, resume=False, anyway=False),
        pytest.raises(DataError, match="another neoxrun is training") as error,
        open_run_folder(tmp_path, MADE, resume=True, anyway=False),
    ):
        pass
    assert error.value.code == "folder_in_use"
    with (
        open_run_folder(tmp_path, MADE, resume=True, anyway=False),
        pytest.raises(DataError, match="another neoxrun is training"),
    ):
        check_not_in_use(tmp_path)
    check_not_in_use(tmp_path)
    check_not_in_use(tmp_path / "none")


def test_damaged_settings_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("[")
    with pytest.raises(DataError, match="not what neoxrun writes") as error:
        check_run_folder(tmp_path, MADE, resume=True, anyway=False)
    assert error.value.code == "bad_file"


def test_settings_that_are_not_those_of_a_run_are_not_compared(tmp_path: Path) -> None:
    made = {**MADE, "command": "finetune"}
    with open_run_folder(tmp_path, made, resume=False, anyway=False) as folder:
        folder.begin(1)
        folder.publish(1, {})
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(DataError, match="not what neoxrun writes") as error:
        check_run_folder(tmp_path, made, resume=True, anyway=False)
    assert error.value.code == "bad_file"
    assert check_run_folder(tmp_path, made, resume=True, anyway=True) != []


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_has_lost_its_settings(tmp_path: Path, resume: bool) -> None:
    with open_run_folder(tmp_path, MADE, resume=False, anyway=False) as folder:
        folder.begin(1)
        folder.publish(1, {})
    (tmp_path / "settings.json").unlink()
    with pytest.raises(DataError, match=r"holds a run without its settings\.json") as error:
        check_run_folder(tmp_path, MADE, resume=resume, anyway=resume)
    assert f"`neoxrun finetune {tmp_path} -o NEW`" in str(error.value.hint)
