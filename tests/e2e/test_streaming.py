"""Answers as they come: text on stdout piece by piece, and how far the work is."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from support.command import neoxrun, records_of, running
from support.terminal import Terminal

GREEDY = ("--dtype", "fp32", "--temperature", "0", "--ignore-eos")
PROMPT = ("generate", "demo", "--prompt", "import os", *GREEDY)
LONG = ("--maximum-tokens", "400")
# Tokens 129 and 104 are the two bytes of "é"; each makes itself less likely, so that they alternate.
TWO_BYTES = ("--logit-bias", "129=100", "--logit-bias", "104=100", "--frequency-penalty", "2")


def pieces_of(*arguments: object) -> list[bytes]:
    """What arrives at the other end of a pipe, piece by piece."""
    found = []
    with running(*arguments) as command:
        assert command.process.stdout is not None
        while piece := os.read(command.process.stdout.fileno(), 65536):
            found.append(piece)
        assert command.process.wait(20) == 0
    return found


def text_of(*arguments: object) -> str:
    (record,) = neoxrun(*arguments, "-o", "-").check_success().records
    return str(record["text"])


@pytest.fixture(scope="module")
def whole() -> str:
    """The long answer, in a record."""
    return text_of(*PROMPT, *LONG, "--tp", "1")


@pytest.mark.parametrize("options", [("--stop", "util"), TWO_BYTES], ids=["stop text", "two bytes"])
def test_a_pipe_gets_whole_characters_and_never_a_stop_text(options: tuple[str, ...]) -> None:
    asked = (*PROMPT, "--tp", "1", "--maximum-tokens", "60", *options)
    pieces, text = pieces_of(*asked), text_of(*asked)
    assert "".join(piece.decode() for piece in pieces) == text + "\n"
    assert len(pieces) > 10
    assert "util" not in text
    if options == TWO_BYTES:
        assert "ééé" in text


@pytest.mark.parametrize("split", [("--tp", "1"), ("--tp", "2")], ids=" ".join)
def test_ctrl_c_keeps_what_was_shown(split: tuple[str, ...], whole: str) -> None:
    with running(*PROMPT, *LONG, *split) as command:
        assert command.process.stdout is not None
        first = os.read(command.process.stdout.fileno(), 65536).decode()
        command.interrupt()
        result = command.finish(timeout=10)
        command.check_all_gone()
    result.check_error(130, "interrupted", out=result.out)
    shown = first + result.out
    assert shown.endswith("\n")
    assert 0 < len(shown) < len(whole)
    assert whole.startswith(shown.removesuffix("\n"))


def test_ctrl_c_keeps_the_record_of_a_single_prompt(whole: str, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    with running(*PROMPT, *LONG, "--tp", "1", "-v", "-o", file) as command:
        assert command.process.stderr is not None
        while b"loaded " not in (line := os.read(command.process.stderr.fileno(), 65536)):
            assert line
        while not file.exists():
            assert command.process.poll() is None
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.process.wait(0.5)
        command.interrupt()
        result = command.finish(timeout=10)
    assert result.code == 130
    assert "--resume" in result.err
    (record,) = records_of(file)
    assert (record["finish_reason"], record["finished"]) == ("aborted", False)
    assert whole.startswith(record["text"])
    neoxrun(*PROMPT, *LONG, "--tp", "1", "-o", file, "--resume").check_success()
    (record,) = records_of(file)
    assert (record["finish_reason"], record["text"]) == ("length", whole)


def test_at_a_terminal_the_text_comes_without_a_bar(whole: str, tmp_path: Path) -> None:
    with contextlib.closing(Terminal(*PROMPT, *LONG, "--tp", "1", home=tmp_path)) as terminal:
        shown = terminal.read_until(re.escape(whole[:20]))
        assert terminal.command.process.poll() is None
        terminal.type("\x03")
        shown += terminal.read_until(r"\nerror: interrupted\n", within=10)
        assert terminal.command.process.wait(10) == 130
    assert "answers" not in shown
    assert len(shown) < len(whole)


def test_several_answers_have_their_numbers() -> None:
    asked = ("generate", "demo", "--prompt", "import os", "--tp", "1", "--dtype", "fp32", "--temperature", "1")
    asked = (*asked, "-n", "3", "--maximum-tokens", "8")
    texts = {record["sample"]: record["text"] for record in neoxrun(*asked, "-o", "-").check_success().records}
    out = neoxrun(*asked).check_success().out
    parts = re.split(r"^--- (\d) of 3 ---\n", out, flags=re.MULTILINE)
    assert parts[0] == ""
    assert dict(zip(map(int, parts[1::2]), parts[2::2], strict=True)) == {
        number + 1: f"{text}\n" for number, text in texts.items()
    }


def test_what_text_alone_cannot_show() -> None:
    neoxrun("generate", "demo", "--prompt", "import os", "--logprobs", "1").check_error(2, "--logprobs", "-o -")
    asked = ("generate", "demo", "--prompt", "import os", "--temperature", "0", "-n", "2", "--maximum-tokens", "2")
    assert "warning: at temperature 0 all answers to a prompt are the same" in neoxrun(*asked).check_success().err


def test_prompts_of_a_file_have_a_bar_at_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("import os\nclass Queue:\n")
    asked = ("generate", "demo", "-i", "in.txt", "--tp", "1", *GREEDY, "--maximum-tokens", "40", "--batch-size", "1")
    with contextlib.closing(Terminal(*asked, home=tmp_path, cwd=tmp_path)) as terminal:
        terminal.read_until(r"answers: +50%\|.*\| 1/2 \[.* tokens/s\]")
        terminal.read_until(r"\n2 answers, 80 tokens in .*, in in\.txt\.output\.jsonl\n")
        assert terminal.command.process.wait(10) == 0


def test_records_at_a_terminal_are_not_mixed_with_a_bar(tmp_path: Path) -> None:
    asked = ("generate", "demo", "--prompt", "import os", "-o", "-", "--tp", "1", *GREEDY, "--maximum-tokens", "40")
    with contextlib.closing(Terminal(*asked, home=tmp_path)) as terminal:
        shown = terminal.read_until(r"\n1 answer, 40 tokens in .*\n")
        assert terminal.command.process.wait(10) == 0
    assert "answers:" not in shown
    assert '\n{"id": 0, ' in shown


def test_a_line_tells_the_time_left_before_any_answer_has_ended(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"def function_{number}(value):\n" for number in range(400)))
    work = (
        "generate",
        "demo",
        "-i",
        prompts,
        "--tp",
        "1",
        "--maximum-tokens",
        "1000",
        "--ignore-eos",
        "--dtype",
        "fp32",
    )
    with running(*work) as command:
        assert command.process.stderr is not None
        lines = (line.decode() for line in command.process.stderr)
        line = next(line for line in lines if " answers, " in line)
    assert re.fullmatch(r"0 of 400 answers, [\d.]+ tokens/s, at most (\d+ h )?(\d+ min )?(\d+ s )?left\n", line)
