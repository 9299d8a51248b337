"""--log-format json: every message of every process is one JSON object a line; and -v, whose lines are marked once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from support.command import Result, neoxrun, running, wait_for

JSON = ("--log-format", "json")
LONG = ("--maximum-tokens", "400", "--ignore-eos", "--batch-size", "1", "--dtype", "fp32")


def messages_of(result: Result) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in result.err.splitlines()]
    for message in found:
        assert {"time", "level", "rank", "message"} <= message.keys()
        assert datetime.fromisoformat(message["time"]).tzinfo is not None
        assert message["level"] in ("debug", "info", "warning", "error")
    return found


def error_of(result: Result) -> dict[str, Any]:
    """The last message, which is the only error."""
    found = messages_of(result)
    assert [message["level"] for message in found].count("error") == 1
    assert found[-1]["exit_code"] == result.code
    return found[-1]


def test_all_ranks_and_the_launcher() -> None:
    asked = ("generate", "demo", "--prompt", "import os", "--maximum-tokens", "4", "--tp", "2", "--temperature", "0")
    result = neoxrun(*asked, "-v", *JSON).check_success()
    found = messages_of(result)
    assert {message["rank"] for message in found} == {None, 0, 1}
    assert {message["level"] for message in found} == {"debug", "info"}
    assert "1 answer, 4 tokens in " in [message for message in found if message["rank"] == 0][-1]["message"]
    assert result.out == "\nimport sys\n\n"


def test_verbose_lines_are_marked_once() -> None:
    asked = ("generate", "demo", "--prompt", "import os", "--maximum-tokens", "4", "--tp", "2", "--dtype", "fp32", "-v")
    lines = neoxrun(*asked).check_success().err.splitlines()
    others = [line for line in lines if "rank 1" in line]
    assert others
    assert all(line.startswith("[rank 1] ") and line.count("rank 1") == 1 for line in others)
    assert not any(line.startswith("[default") for line in lines)


@pytest.mark.parametrize(
    ("words", "code", "which"),
    [
        (("generate", "nodemo"), 2, "missing_configuration"),
        (("generate", "demo", "--nonsense"), 2, "usage"),
        (("nonsense",), 2, "unknown_command"),
        (("generate", "demo", "--prompt", "x = 1; " * 600, "--tp", "1"), 4, "unanswered_prompts"),
    ],
)
def test_errors(words: tuple[str, ...], code: int, which: str) -> None:
    error = error_of(neoxrun(*words, *JSON))
    assert (error["code"], error["exit_code"]) == (which, code)
    assert error["message"]


def test_ctrl_c_while_loading(tmp_path: Path) -> None:
    with running("generate", "demo", "--prompt", "import os", "-o", tmp_path / "out", "--tp", "2", *JSON) as command:
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.process.wait(1.5)
        command.interrupt()
        result = command.finish(timeout=10)
        command.check_all_gone()
    assert error_of(result)["code"] == "interrupted"
    assert result.code == 130


def test_a_rank_is_killed(tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out"
    source.write_text("import os\n" * 30)
    with running("generate", "demo", "-i", source, "-o", output, "--tp", "2", *LONG, *JSON) as command:
        wait_for(lambda: output.exists() and output.read_bytes() != b"", 60, lambda: "no record came")
        os.kill(command.rank(1), signal.SIGKILL)
        result = command.finish(timeout=10)
    error = error_of(result)
    assert (error["code"], result.code) == ("rank_died", 5)
    assert "SIGKILL" in error["message"]


def test_contradictory_amounts_of_messages() -> None:
    neoxrun("plan", "demo", "-v", "-q").check_error(2, "-q", "-v")
