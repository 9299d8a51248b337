"""neoxrun generate --interactive, at a terminal and through pipes."""

from __future__ import annotations

import contextlib
import signal
from operator import itemgetter
from pathlib import Path

import pytest

from support.command import neoxrun
from support.terminal import Terminal

ENTER = "\r"
LONG = ["--temperature", "0", "--maximum-tokens", "400", "--ignore-eos"]


def dialogue(home: Path, *arguments: object) -> contextlib.closing[Terminal]:
    return contextlib.closing(Terminal("generate", "demo", "--interactive", *arguments, home=home))


@pytest.mark.parametrize("tp", ["1", "2"])
def test_dialogue_at_a_terminal(tp: str, tmp_path: Path) -> None:
    with dialogue(tmp_path, "--tp", tp, "-q", *LONG) as terminal:
        terminal.read_until(r"> ")

        terminal.type("import os" + ENTER)
        start = terminal.read_until(r"import sys\n").rpartition("> ")[2]  # the answer comes while it is being made
        terminal.type("\x03")
        assert len(terminal.read_until(r"\n> ", within=5)) < 600, "Ctrl-C stops the answer"

        terminal.type("a line that Ctrl-C drops\x03")
        terminal.read_until(r"\n> ", within=5)

        terminal.type("import os" + ENTER)
        again = terminal.read_until(r"import sys\n", within=10).rpartition("> ")[2]
        assert again == start, "the first answer left nothing behind"
        terminal.type("\x03")
        terminal.read_until(r"\n> ", within=5)

        terminal.type("\x04")
        assert terminal.command.process.wait(10) == 0
        terminal.command.check_all_gone()


@pytest.mark.parametrize("tp", ["1", "2"])
def test_sigterm_ends_a_dialogue(tp: str, tmp_path: Path) -> None:
    """At a prompt that is not the first, and not by the few seconds after which a process ends in any case."""
    with dialogue(tmp_path, "--tp", tp, "-q", "--maximum-tokens", "5") as terminal:
        terminal.read_until(r"> ")
        terminal.type("import os" + ENTER)
        terminal.read_until(r"\n> ")
        terminal.type("half a line")
        terminal.read_until(r"half a line")
        terminal.command.process.send_signal(signal.SIGTERM)
        terminal.read_until(r"error: ended by SIGTERM", within=4)
        assert terminal.command.process.wait(4) == 143
        terminal.command.check_all_gone()


def test_sigterm_ends_an_answer_and_the_dialogue(tmp_path: Path) -> None:
    with dialogue(tmp_path, "--tp", "1", "-q", *LONG) as terminal:
        for _ in range(2):
            terminal.read_until(r"> ")
            terminal.type("import os" + ENTER)
            terminal.read_until(r"import sys\n")
            terminal.type("\x03")
        terminal.read_until(r"> ", within=5)
        terminal.type("import os" + ENTER)
        terminal.read_until(r"import sys\n")
        terminal.command.process.send_signal(signal.SIGTERM)
        assert terminal.command.process.wait(4) == 143


GREEDY = ("--tp", "1", "--dtype", "fp32", "--temperature", "0")
SHORT = (*GREEDY, "--maximum-tokens", "5")


def answer(prompt: str, *options: str, tokens: int = 5) -> str:
    """What the demo model writes after a prompt."""
    words = (*GREEDY, "--maximum-tokens", tokens, *options)
    return neoxrun("generate", "demo", "--prompt", prompt, *words).check_success().out


def test_editing_history_and_pasting(tmp_path: Path) -> None:
    with dialogue(tmp_path, *SHORT, "--truncate", "left") as terminal:
        assert "Ctrl-D leaves. /help" in terminal.read_until(r"> ")
        terminal.type("import oz\x7fs" + ENTER)
        assert terminal.read_until(r"\n> ", within=10).endswith(answer("import os") + "> ")
        terminal.type("\x1b[200~class Queue:\n    def __init__\x1b[201~" + ENTER)
        assert terminal.read_until(r"\n> ", within=10).endswith(answer("class Queue:\n    def __init__") + "> ")
        long = "x = 1; " * 700
        terminal.type(long + ENTER)
        assert len(long) > 4096, "where the terminal's own editing would cut"
        assert terminal.read_until(r"\n> ", within=30).endswith(answer(long.strip(), "--truncate", "left") + "> ")
        terminal.type("\x04")
        assert terminal.command.process.wait(10) == 0
    with dialogue(tmp_path, *SHORT, "-q") as terminal:
        terminal.read_until(r"> ")
        terminal.type("\x1b[A" * 4 + ENTER)  # once for each prompt, and within the pasted one to its first line
        assert terminal.read_until(r"\n> ", within=10).endswith(answer("import os") + "> "), "typed the day before"
    history = tmp_path / "neoxrun" / "history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "+import os\n" in history.read_text()


def test_no_history(tmp_path: Path) -> None:
    with dialogue(tmp_path, *SHORT, "-q", "--no-history") as terminal:
        terminal.read_until(r"> ")
        terminal.type("import os" + ENTER)
        terminal.read_until(r"\n> ", within=10)
    assert list(tmp_path.iterdir()) == []


def test_commands(tmp_path: Path) -> None:
    with dialogue(tmp_path, *SHORT) as terminal:
        terminal.read_until(r"> ")

        def said(line: str) -> str:
            terminal.type(line + ENTER)
            return terminal.read_until(r"\n> ", within=10).removesuffix("> ")

        assert "there is no answer yet" in said("/more")
        first = answer("import os").removesuffix("\n")
        assert said("import os").endswith(first + "\n")
        assert said("/more").endswith(answer("import os" + first))
        assert "maximum_tokens 2\n" in said("/set maximum-tokens 2")
        assert said("import os").endswith(answer("import os", tokens=2))
        assert "maximum_tokens 3\n" in said("/set max_tokens 3")
        assert "maximum_tokens 2\n" in said("/set n_predict 2")
        assert "There is no beam search" in said("/set num_beams 2")
        assert "temperature must be" in said("/set temperature -1")
        assert "temperature?" in said("/set temprature 1")
        assert "\ntop_k 0\n" in said("/set")
        assert "/set?" in said("/sett")
        assert "undo every /set" in said("/help")
        said("/reset")
        assert "there is no answer yet" in said("/more")
        assert said("import os").endswith(first + "\n")
        assert said("/usr/bin/env python").endswith(answer("/usr/bin/env python")), "a path is no command"
        terminal.type("/exit" + ENTER)
        assert terminal.command.process.wait(10) == 0


def test_dialogue_through_pipes() -> None:
    """No prompt signs where nobody types; --prompt-end lets a prompt have several lines; a last one needs no end."""
    short = (*SHORT, "-q")
    text = "/help;;import os\nimport sys\n;;\n\n;;\nclass Queue:;;import re;;def f("
    result = neoxrun("generate", "demo", "--interactive", *short, "--prompt-end", ";;", stdin=text).check_success()
    assert result.err == ""
    same = neoxrun("generate", "demo", "-i", "-", "-o", "-", *short, "--prompt-end", ";;", stdin=text).check_success()
    assert result.out == "".join(record["text"] + "\n" for record in sorted(same.records, key=itemgetter("id")))
