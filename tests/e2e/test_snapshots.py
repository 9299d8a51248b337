"""The snapshots themselves: a difference is an error, except in what differs from run to run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from support.command import Result
from support.paths import ROOT
from support.snapshots import Snapshot, Snapshots, read_sections, snapshots_of

RESULT = Result("neoxrun plan x", 2, "", "error: x is wrong\n\nhint: Leave it out.\n", seconds=1, cpu_seconds=1)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    return tmp_path / "test_x.py"


def session(*, write: bool = False) -> Snapshots:
    return Snapshots(write=write, temporary=Path("/temporary/files"))


def write(module: Path, *tests: str, known: set[str] | None = None) -> None:
    snapshots = session(write=True)
    for test in tests:
        Snapshot(snapshots, module, test)(RESULT)
    snapshots.save({} if known is None else {snapshots_of(module): known})


def test_what_was_written_is_compared_with(module: Path) -> None:
    write(module, "test_one[a]", "test_two")
    assert list(read_sections(snapshots_of(module))) == ["test_one[a]", "test_two"]
    Snapshot(session(), module, "test_two")(RESULT)
    for name, other in (
        ("command", "neoxrun plan y"),
        ("code", 3),
        ("out", "more"),
        ("err", RESULT.err.replace("wrong", "bad")),
    ):
        with pytest.raises(AssertionError, match="test_two"):
            Snapshot(session(), module, "test_two")(dataclasses.replace(RESULT, **{name: other}))
    with pytest.raises(AssertionError, match="--write-snapshots"):
        Snapshot(session(), module, "test_three")(RESULT)
    with pytest.raises(AssertionError):
        Snapshot(session(), module, "test_two")(RESULT, "again")


def test_comparing_writes_nothing(module: Path) -> None:
    snapshots = session()
    with pytest.raises(AssertionError):
        Snapshot(snapshots, module, "test_one")(RESULT)
    snapshots.save({})
    assert not snapshots_of(module).exists()


def test_sections_of_tests_that_are_gone_go(module: Path) -> None:
    write(module, "test_one[a]", "test_one[b]", "test_two")
    write(module, "test_two")
    assert list(read_sections(snapshots_of(module))) == ["test_one[a]", "test_one[b]", "test_two"]
    write(module, "test_two", known={"test_one[b]", "test_two"})
    assert list(read_sections(snapshots_of(module))) == ["test_one[b]", "test_two"]


@pytest.mark.parametrize(
    ("said", "also"),
    [
        ("/temporary/files/test_x0/model.yml:3", "/temporary/files/test_x17/model.yml:3"),
        ("2 answers in 0.3 s (40.0 tokens/s)", "2 answers in 12 s (7 tokens/s)"),
        ("at 1.2 MB/s and 3 kB/s", "at 9 GB/s and 4.5 B/s"),
        ("http://127.0.0.1:40123/a", "http://127.0.0.1:5000/a"),
        ("process 7654321", "process 45"),
        (
            "error: interrupted",
            "loaded 0.5 GB in 3 s\nwarning: waiting for all 2 ranks\n1 answer, 2 tokens\nerror: interrupted",
        ),
    ],
)
def test_what_differs_from_run_to_run_is_no_difference(module: Path, said: str, also: str) -> None:
    snapshots = session(write=True)
    Snapshot(snapshots, module, "test_one")(dataclasses.replace(RESULT, err=said), replace={"7654321": "PID"})
    snapshots.save({})
    Snapshot(session(), module, "test_one")(dataclasses.replace(RESULT, err=also), replace={"45": "PID"})


@pytest.mark.parametrize(
    ("said", "also"), [("3 files", "4 files"), ("x.yml:3", "x.yml:4"), ("port 99999", "port 99998"), ("2.5 GB", "2 GB")]
)
def test_numbers_that_mean_something_are_compared(module: Path, said: str, also: str) -> None:
    snapshots = session(write=True)
    Snapshot(snapshots, module, "test_one")(dataclasses.replace(RESULT, err=said))
    snapshots.save({})
    with pytest.raises(AssertionError):
        Snapshot(session(), module, "test_one")(dataclasses.replace(RESULT, err=also))


def test_paths_of_the_repository_are_left_out(module: Path) -> None:
    write(module, "test_one")
    snapshots = session(write=True)
    Snapshot(snapshots, module, "test_one")(dataclasses.replace(RESULT, err=f"{ROOT}/configs/demo.yml"))
    snapshots.save({})
    assert "REPOSITORY/configs/demo.yml" in read_sections(snapshots_of(module))["test_one"]
