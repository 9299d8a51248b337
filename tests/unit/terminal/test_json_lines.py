"""Messages as JSON, one object a line."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from neoxrun.errors import DataError, Different
from neoxrun.terminal.json_lines import JsonStream, asks_for_json
from neoxrun.terminal.log import details_of, error_text, finish_line, log, set_up

Said = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """The messages on stderr since the last call."""
    before = (list(log.handlers), log.level, sys.stderr)
    yield lambda: messages(capsys.readouterr().err)
    logging.captureWarnings(False)
    log.handlers[:], level, sys.stderr = before
    log.setLevel(level)


def messages(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for message in found:
        assert list(message)[:4] == ["time", "level", "rank", "message"]
        assert datetime.fromisoformat(message.pop("time")).tzinfo is not None
    return found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["generate", "--log-format", "json"], True),
        (["generate", "--log-format=json", "-q"], True),
        (["generate", "--log_format", "json"], True),
        (["generate", "--log_format=json"], True),
        (["generate", "--log-format", "text"], False),
        (["generate", "json", "--log-format"], False),
        ([], False),
    ],
)
def test_it_is_known_before_the_command_line_is_parsed(words: list[str], expected: bool) -> None:
    assert asks_for_json(words) == expected


def test_levels_ranks_and_what_is_not_wanted(said: Said) -> None:
    set_up(0, 2, as_json=True)
    for say in (log.debug, log.info, log.warning):
        say("naïve")
    assert said() == [{"level": "warning", "rank": 2, "message": "naïve"}]
    set_up(1, 0, as_json=True)
    log.debug("a\nb")
    assert said() == [{"level": "debug", "rank": 0, "message": "a\nb"}]


def test_a_traceback_is_in_its_message(said: Said) -> None:
    set_up(1, as_json=True)
    try:
        raise KeyError("oops")
    except KeyError as error:
        details_of(error)
    (message,) = said()
    assert message["traceback"].endswith("KeyError: 'oops'")
    assert message["rank"] is None


def test_an_error_has_all_its_parts(said: Said) -> None:
    error = DataError("no file", code="missing_file", where="a.txt", hint="Look.")
    assert error_text(error, verbose=False) == "error: no file\n  --> a.txt\n\nhint: Look."
    set_up(0, as_json=True)
    print(error_text(error, 3, verbose=False), file=sys.stderr)
    (message,) = said()
    parts = {"where": "a.txt", "hint": "Look.", "code": "missing_file", "exit_code": 4}
    assert message == {"level": "error", "rank": 3, "message": "no file", **parts}
    assert error_text(Different("another"), verbose=True) == ""


def test_what_libraries_write_becomes_messages(said: Said) -> None:
    set_up(0, 1, as_json=True)
    print("two\nlines", file=sys.stderr)
    sys.stderr.write("in ")
    sys.stderr.write("pieces\n\n")
    print("10%\r20%\r30%", file=sys.stderr)
    print('{"an": "object"}', file=sys.stderr)
    found = said()
    assert [message["message"] for message in found] == ["two", "lines", "in pieces", "30%", '{"an": "object"}']
    assert {(message["level"], message["rank"]) for message in found} == {("info", 1)}


def test_python_warnings_are_warnings(said: Said) -> None:
    set_up(0, 0, as_json=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("careful", stacklevel=1)
        logging.captureWarnings(False)
    (message,) = said()
    assert message["level"] == "warning"
    assert "careful" in message["message"]


def test_lines_of_other_ranks_that_torchrun_marks() -> None:
    inner, outer = io.StringIO(), io.StringIO()
    JsonStream(inner, 3).write("from a library\n")
    stream = JsonStream(outer, None)
    stream.write(f"[rank 3] {inner.getvalue()}[rank 4] plain\n")
    first, second = messages(outer.getvalue())
    assert first == {"level": "info", "rank": 3, "message": "from a library"}
    assert second == {"level": "info", "rank": 4, "message": "plain"}
    assert not stream.isatty()


def test_a_line_without_an_end_comes_when_the_process_ends(said: Said) -> None:
    set_up(0, 1, as_json=True)
    sys.stderr.write("Segmentation fau")
    sys.stderr.flush()
    assert said() == [], "a library may flush in the middle of a line"
    finish_line()
    assert said() == [{"level": "info", "rank": 1, "message": "Segmentation fau"}]
    finish_line()
    assert said() == []


def test_what_is_drawn_over_takes_no_memory() -> None:
    inner = io.StringIO()
    stream = JsonStream(inner, None)
    stream.write("[rank 3] ")
    for count in range(10_000):
        stream.write(f"\r{count} of 10000")
    assert len(stream._begun) < 100
    stream.write("\nended by DOS\r")
    stream.write("\n")
    assert messages(inner.getvalue()) == [
        {"level": "info", "rank": 3, "message": "9999 of 10000"},
        {"level": "info", "rank": None, "message": "ended by DOS"},
    ]
