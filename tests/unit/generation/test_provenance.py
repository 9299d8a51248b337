"""What made records, and which work may replace or continue them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from neoxrun.errors import DataError, NeoxrunError, UsageError
from neoxrun.generation.provenance import (
    Provenance,
    check_continuing,
    check_replacing,
    meta_file,
    provenance_of,
    write_provenance,
)

RECORDS = '{"id": 0, "context": "a", "text": "b"}\n'


def work(**changes: Any) -> Provenance:
    usual: dict[str, Any] = {"model": "aa", "checkpoint": "/models/a", "dtype": "fp32", "input_checksum": "11"}
    how = {"seed": 1, "sampling": {"temperature": 0.5, "stop": ("x",)}}
    for name in list(changes):
        if name not in usual and name != "command":
            how[name] = changes.pop(name)
    command = changes.pop("command", "generate")
    return provenance_of(command, **{**usual, **changes}, how=how)


def made_by(path: Path, made: Provenance) -> Path:
    path.write_text(RECORDS)
    write_provenance(path, made)
    return path


def continued(path: Path, made: Provenance, *, anyway: bool = False) -> Provenance:
    return check_continuing(path, made, None, anyway=anyway, hint="Do it.")


def refused(call: Any, *arguments: Any) -> NeoxrunError:
    with pytest.raises(NeoxrunError) as caught:
        call(*arguments)
    return caught.value


def test_the_same_work_replaces_and_continues(tmp_path: Path) -> None:
    path = made_by(tmp_path / "out", work())
    check_replacing(path, work(), None)
    assert continued(path, work()) == work()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "out.meta.json"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"dtype": "bf16"}, "dtype was fp32, is bf16"),
        ({"model": "bb", "checkpoint": "/b"}, "model was aa (/models/a), is bb (/b)"),
        ({"sampling": {"temperature": 0.0, "stop": ["x"]}}, "temperature was 0.5, is 0.0"),
        ({"sampling": {"temperature": 0.5, "stop": []}}, 'stop was ["x"], is []'),
        ({"command": "score", "seed": 2, "sampling": None}, "command was generate, is score"),
        ({"dtype": "bf16", "seed": 2}, "dtype was fp32, is bf16; seed was 1, is 2"),
    ],
)
def test_other_work_is_refused_with_what_differs(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = made_by(tmp_path / "out", work())
    for error in (refused(check_replacing, path, work(**changes), None), refused(continued, path, work(**changes))):
        assert error.code == "different_run"
        assert error.message.endswith(f"{path} come from a different run: {says}")
    assert path.read_text() == RECORDS


def test_the_parameters_of_answered_prompts_are_compared(tmp_path: Path) -> None:
    path = made_by(tmp_path / "out", work(own={"0": "aa", '"b"': "bb"}))

    def refusal(own: dict[str, str], answered: list[str | int], *, anyway: bool = False) -> str:
        try:
            check_continuing(path, work(own=own), None, answered=answered, anyway=anyway, hint="Do it.")
        except DataError as error:
            return error.message
        return ""

    assert not refusal({"0": "aa", '"b"': "cc"}, [0])
    assert not refusal({"0": "aa", '"b"': "bb", "5": "dd"}, [0, "b"])
    assert refusal({"0": "aa", '"b"': "cc"}, [0, "b"]).endswith('the parameters of the prompt "b" differ')
    assert refusal({}, [0, "b"]).endswith('the parameters of the prompt "b" and of 1 more differ')
    assert refusal({"0": "aa", '"b"': "bb", "5": "dd"}, [5]).endswith("the parameters of the prompt 5 differ")
    assert not refusal({}, [0, "b"], anyway=True)
    check_replacing(path, work(own={"0": "zz"}), None)  # the checksum of the input tells


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [(None, "left", ""), ("left", "left", ""), ("left", "right", "left, is right"), ("left", None, "left, is null")],
)
def test_prompts_cut_in_two_ways_do_not_mix(before: str | None, now: str | None, says: str, tmp_path: Path) -> None:
    path = made_by(tmp_path / "out", work(truncate=before))
    if says:
        assert refused(continued, path, work(truncate=now)).message.endswith(f"truncate was {says}")
    else:
        assert continued(path, work(truncate=now)) == work(truncate=now)
    if before != now:
        assert "truncate was" in refused(check_replacing, path, work(truncate=now), None).message


def test_another_version_is_other_work(tmp_path: Path) -> None:
    path = made_by(tmp_path / "out", {**work(), "version": "0.0.1"})
    assert re.search(r"version was 0\.0\.1, is ", refused(continued, path, work()).message)


def test_where_the_checkpoint_is_does_not_matter(tmp_path: Path) -> None:
    path = made_by(tmp_path / "out", work())
    check_replacing(path, work(checkpoint="/moved"), None)


def test_other_prompts_are_continued_but_not_replaced(tmp_path: Path) -> None:
    """The records themselves say which prompts they belong to, and more prompts may be added."""
    path = made_by(tmp_path / "out", work())
    assert refused(check_replacing, path, work(input_checksum="22"), None).message.endswith("the prompts differ")
    assert continued(path, work(input_checksum="22"))["input"] == "22"


def test_anyway_keeps_what_made_the_earlier_records(tmp_path: Path) -> None:
    path = made_by(tmp_path / "out", work())
    second = continued(path, work(seed=2), anyway=True)
    assert second == {**work(seed=2), "earlier": [work()]}
    write_provenance(path, second)
    assert continued(path, work(seed=2)) == second
    third = continued(path, work(seed=3), anyway=True)
    assert third["earlier"] == [work(), work(seed=2)]


def test_records_of_which_nothing_is_known(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text(RECORDS)
    assert "out.meta.json" in refused(check_replacing, path, work(), None).message
    assert continued(path, work()) == {**work(), "earlier": ["unknown"]}
    path.write_text("")
    check_replacing(path, work(), None)
    assert continued(path, work()) == work()


def test_records_that_are_still_in_another_file(tmp_path: Path) -> None:
    path, unfinished = tmp_path / "out.parquet", tmp_path / "out.parquet.unfinished.jsonl"
    unfinished.write_text(RECORDS)
    write_provenance(path, work())
    check_replacing(path, work(), None, unfinished)
    assert refused(check_replacing, path, work(seed=2), None, unfinished).code == "different_run"
    with pytest.raises(DataError, match="seed was 1, is 2"):
        check_continuing(path, work(seed=2), None, unfinished, anyway=False, hint="Do it.")


@pytest.mark.parametrize("content", ["mine", "[1]", '{"version": 1}', "\ud800"])
def test_a_file_of_the_users_with_that_name_stays(content: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    meta_file(path).write_text(content, errors="surrogatepass")
    for error in (refused(check_replacing, path, work(), None), refused(continued, path, work())):
        assert (error.code, error.where) == ("other_file", str(meta_file(path)))
    assert meta_file(path).read_text(errors="surrogatepass") == content


def test_the_input_with_that_name_stays(tmp_path: Path) -> None:
    source = tmp_path / "out.meta.json"
    source.write_text("import os\n")
    with pytest.raises(UsageError, match="is also the input"):
        check_replacing(tmp_path / "out", work(), str(source))


def test_a_link_and_its_file_share_it(tmp_path: Path) -> None:
    path, link = made_by(tmp_path / "out", work()), tmp_path / "link"
    link.symlink_to(path)
    assert meta_file(link) == meta_file(path)
    check_replacing(link, work(), None)
    assert json.loads(meta_file(link).read_text()) == work()


def test_a_stream_has_none_and_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    write_provenance(None, work())
    write_provenance(Path("/dev/null"), work())
    (tmp_path / "out").write_text(RECORDS)
    (tmp_path / "out.meta.json").mkdir()
    with pytest.raises(DataError, match=r"out\.meta\.json cannot be written"):
        write_provenance(tmp_path / "out", work())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.meta.json"]
