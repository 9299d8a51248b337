"""Where the prompts of a dialogue come from: a terminal, with editing and history, or a pipe."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.data_structures import Size
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.output.vt100 import Vt100_Output

from neoxrun.terminal.ending import ASKED_TO_END

_FIRST, _NEXT = "> ", ". "


class Prompter(Protocol):
    """Asks for prompts."""

    def read_prompt(self) -> str | None:
        """The next prompt, without white space around it; None when there are no more. Ctrl-C drops what was typed.

        Raises:
            KeyboardInterrupt: SIGTERM has asked this process to end.
        """


def prompter(prompt_end: str, *, keep_history: bool) -> Prompter:
    """The one for this process's stdin.

    Args:
        prompt_end: the text that ends a prompt.
        keep_history: add what is typed at a terminal to the user's file of earlier prompts.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return PipePrompter(prompt_end)
    return TerminalPrompter(prompt_end, _history() if keep_history else InMemoryHistory())


class PipePrompter:
    """Prompts from a pipe, each up to ``prompt_end``."""

    def __init__(self, prompt_end: str) -> None:
        self._end = prompt_end
        self._read = ""

    def read_prompt(self) -> str | None:
        """See ``Prompter``."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _check_asked_to_end()
        while self._end not in self._read:
            try:
                line = sys.stdin.readline()
            except KeyboardInterrupt:
                _check_asked_to_end()
                self._read = ""
                continue
            if not line:
                last, self._read = self._read.strip(), ""
                return last or None
            self._read += line
        prompt, _, self._read = self._read.partition(self._end)
        if not self._read.strip():
            self._read = ""
        return prompt.strip()


class TerminalPrompter:
    """Prompts that are typed. Without a ``prompt_end`` of its own, a line is one, or pasted text of several lines.

    Args:
        prompt_end: the text that ends a prompt.
        history: earlier prompts, which the arrow keys show.
    """

    def __init__(self, prompt_end: str, history: History) -> None:
        self._end = prompt_end
        # Answers go to stdout. Terminals that do not say where their cursor is are fine, too.
        output = Vt100_Output(sys.stderr, _terminal_size, term=os.environ.get("TERM"), enable_cpr=False)
        self._session: PromptSession[str] = PromptSession(
            history=history, input=create_input(sys.stdin), output=output, enable_suspend=True
        )

    def read_prompt(self) -> str | None:
        """See ``Prompter``."""
        typed = ""
        while True:
            _check_asked_to_end()
            try:
                with _wakeup_kept():
                    typed += self._session.prompt(_NEXT if typed else _FIRST)
            except KeyboardInterrupt:
                typed = ""
                continue
            except EOFError:
                return typed.strip() or None
            if self._end == "\n":
                return typed.strip()
            typed += "\n"
            before, found, _ = typed.partition(self._end)
            if found:
                return before.strip()


def _check_asked_to_end() -> None:
    if ASKED_TO_END.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def _wakeup_kept() -> Iterator[None]:
    """Give signals back to whoever has read them from a pipe: prompt_toolkit's event loop takes them, and forgets."""
    before = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)


def _terminal_size() -> Size:
    columns, rows = shutil.get_terminal_size()
    return Size(rows=rows, columns=columns)


def _history() -> History:
    """The user's file of earlier prompts; where it cannot be written, those of this dialogue."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = home / "neoxrun" / "history"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("ab"):
            return FileHistory(path)
    return InMemoryHistory()
