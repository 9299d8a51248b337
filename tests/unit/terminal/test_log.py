"""Messages on stderr."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from neoxrun.errors import DataError
from neoxrun.terminal.log import details_of, log, set_up


@pytest.fixture(autouse=True)
def _same_log_afterwards() -> Iterator[None]:
    before = (list(log.handlers), log.level)
    yield
    log.handlers[:], level = before
    log.setLevel(level)


def say_all() -> None:
    log.debug("a detail")
    log.info("work")
    log.warning("odd")


@pytest.mark.parametrize(
    ("verbosity", "rank", "expected"),
    [
        (-1, 0, "warning: odd\n"),
        (0, 0, "work\nwarning: odd\n"),
        (1, 0, "a detail\nwork\nwarning: odd\n"),
        (0, 3, "[rank 3] warning: odd\n"),
        (1, 3, "[rank 3] a detail\n[rank 3] work\n[rank 3] warning: odd\n"),
    ],
)
def test_who_says_what(verbosity: int, rank: int, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(verbosity, rank)
    say_all()
    assert capsys.readouterr().err == expected


def test_lines_that_somebody_else_marks(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(0, 3, marked=False)
    say_all()
    assert capsys.readouterr().err == "warning: odd\n"


def raise_and_tell(error: BaseException) -> None:
    try:
        raise error
    except BaseException as caught:
        details_of(caught)


def test_a_traceback_is_a_detail(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(0)
    raise_and_tell(KeyError("oops"))
    assert capsys.readouterr().err == ""
    set_up(1, rank=2)
    raise_and_tell(KeyError("oops"))
    said = capsys.readouterr().err
    assert said.startswith("[rank 2] This is where it went wrong:\n[rank 2] Traceback (most recent call last):\n")
    assert said.endswith("[rank 2] KeyError: 'oops'\n")
    assert all(line.count("[rank 2]") == 1 for line in said.splitlines())


@pytest.mark.parametrize(
    "error", [DataError("no file", code="missing_file"), KeyboardInterrupt(), BrokenPipeError()], ids=repr
)
def test_messages_and_ways_to_stop_have_no_traceback(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(1)
    raise_and_tell(error)
    assert capsys.readouterr().err == ""
