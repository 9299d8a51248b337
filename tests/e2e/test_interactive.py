"""neoxrun generate --interactive, at a terminal and through pipes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import termios
import time
from operator import itemgetter

import pytest

from support.command import Running, neoxrun

LONG = ["--temperature", "0", "--maximum-tokens", "400", "--ignore-eos"]


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, *arguments: object) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)

        def control() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.command = Running(*arguments, stdin=slave, stdout=slave, stderr=slave, preexec=control, process_group=None)
        os.close(slave)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read_until(self, pattern: str, within: float = 60) -> str:
        """What the terminal shows up to and with ``pattern``."""
        end = time.monotonic() + within
        while not (found := re.search(pattern, self._seen)):
            assert time.monotonic() < end, f"{pattern!r} did not come: {self._seen!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self._seen += os.read(self._master, 4096).decode().replace("\r\n", "\n")
                except OSError:  # the other end is closed
                    assert re.search(pattern, self._seen), f"{pattern!r} did not come: {self._seen!r}"
        text, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return text

    def close(self) -> None:
        self.command.end()
        os.close(self._master)


@pytest.mark.parametrize("tp", ["1", "2"])
def test_dialogue_at_a_terminal(tp: str) -> None:
    with contextlib.closing(Terminal("generate", "demo", "--interactive", "--tp", tp, "-q", *LONG)) as terminal:
        terminal.read_until(r"^> ")

        terminal.type("import os\n")
        start = terminal.read_until(r"import \w+\n")  # the answer comes while it is being made
        terminal.type("\x03")
        assert len(terminal.read_until(r"\n> ", within=5)) < 600, "Ctrl-C stops the answer"

        terminal.type("a line that Ctrl-C drops\x03")
        terminal.read_until(r"\n> ", within=5)

        terminal.type("import os\n")
        assert terminal.read_until(r"import \w+\n", within=10) == start, "the first answer left nothing behind"
        terminal.type("\x03")
        terminal.read_until(r"\n> ", within=5)

        terminal.type("\x04")
        assert terminal.command.process.wait(10) == 0
        terminal.command.check_all_gone()


def test_dialogue_through_pipes() -> None:
    """No prompt signs where nobody types; --prompt-end lets a prompt have several lines; a last one needs no end."""
    short = ("--tp", "1", "--dtype", "fp32", "-q", "--temperature", "0", "--maximum-tokens", "5")
    text = "import os\nimport sys\n;;\n\n;;\nclass Queue:;;import re;;def f("
    result = neoxrun("generate", "demo", "--interactive", *short, "--prompt-end", ";;", stdin=text).check_success()
    assert result.err == ""
    same = neoxrun("generate", "demo", "-i", "-", "-o", "-", *short, "--prompt-end", ";;", stdin=text).check_success()
    assert result.out == "".join(record["text"] + "\n" for record in sorted(same.records, key=itemgetter("id")))
