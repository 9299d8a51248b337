"""A command at a terminal of its own, and what it shows there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import termios
import time
from pathlib import Path

from support.command import Running
from support.paths import ROOT

# What moves the cursor, sets colours, and switches the pasting of several lines on and off.
CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[=>])|\r")
SIGN = ">\b\x1b[2C"  # how prompt_toolkit draws "> "


class Terminal:
    """A command at a terminal of its own.

    Args:
        arguments: of the command.
        home: where it keeps its history.
        cwd: the folder that it runs in.
    """

    def __init__(self, *arguments: object, home: Path, cwd: Path = ROOT) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)

        def control() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        environment = {"XDG_STATE_HOME": str(home), "TERM": "xterm"}
        self.command = Running(
            *arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec=control,
            process_group=None,
            env=environment,
            cwd=cwd,
        )
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
                    self._seen += os.read(self._master, 4096).decode(errors="replace")
                    self._seen = CONTROL.sub("", self._seen.replace(SIGN, "> "))
                except OSError:  # the other end is closed
                    assert re.search(pattern, self._seen), f"{pattern!r} did not come: {self._seen!r}"
        text, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return text

    def close(self) -> None:
        self.command.end()
        os.close(self._master)
