"""``--log-format json``: every message is one JSON object a line, with ``time``, ``level``, ``rank`` and ``message``.

What libraries write to Python's stderr, and what ranks write that torchrun passes on, becomes such a line, too.
"""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, TextIO

_MARK: Final = re.compile(r"\[rank (\d+)\] ?")  # of a rank's line
_OPTION: Final = "--log-format"


def asks_for_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, before it is parsed: it may be wrong, which is a message as well."""
    options = [word.replace("_", "-") for word in words]  # both are taken
    return f"{_OPTION}=json" in options or (_OPTION, "json") in pairwise(options)


def json_line(level: str, rank: int | None, message: str, **more: Any) -> str:
    """A message as one line, without its end.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        rank: of the process; None where it is not a rank.
        message: the text.
        more: further facts; those that are None are left out.
    """
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    facts = {name: value for name, value in more.items() if value is not None}
    return json.dumps({"time": time, "level": level, "rank": rank, "message": message, **facts}, ensure_ascii=False)


class JsonFormatter(logging.Formatter):
    """Log records as JSON lines, with the keys of a record's ``facts`` where it has any.

    Args:
        rank: of this process; None where it is not a rank.
    """

    def __init__(self, rank: int | None) -> None:
        super().__init__()
        self._rank = rank

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        trace = self.formatException(record.exc_info) if record.exc_info else None
        facts = getattr(record, "facts", {})
        return json_line(record.levelname.lower(), self._rank, record.getMessage().rstrip(), traceback=trace, **facts)


class JsonStream(io.TextIOBase):
    """Stands for stderr: lines that are not JSON objects of ``json_line`` are put into one.

    Args:
        stream: the real one.
        rank: of this process; None where it is not a rank.
    """

    def __init__(self, stream: TextIO, rank: int | None) -> None:
        self._stream, self._rank = stream, rank
        self._begun = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write the lines that are complete with ``text``."""
        with self._lock:
            *lines, begun = (self._begun + text).split("\n")
            self._begun = self._last_drawn(begun)
            whole = [self._converted(line) for line in lines]
            self._stream.write("".join(f"{line}\n" for line in whole if line))
            self._stream.flush()
        return len(text)

    def finish(self) -> None:
        """Write the line that is not complete, as nothing will end it. ``flush`` is called at other times, too."""
        self.write("\n")

    def fileno(self) -> int:
        """That of the real one."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """No: nothing is drawn here."""
        return False

    @staticmethod
    def _last_drawn(line: str) -> str:
        """What a line that is not complete comes to: its mark, and what was drawn over the rest."""
        marked = _MARK.match(line)
        start = marked.end() if marked else 0
        drawn = line[start:].rstrip("\r")
        returned = "\r" if line.endswith("\r") else ""  # maybe of a line end that is \r\n
        return line[:start] + drawn.rpartition("\r")[2] + returned

    def _converted(self, line: str) -> str:
        rank = self._rank
        if (found := _MARK.match(line)) is not None:
            rank, line = int(found[1]), line[found.end() :]
        if line.startswith('{"time": '):
            return line
        line = line.rstrip("\r").rpartition("\r")[2].strip()  # after what was drawn over
        return json_line("info", rank, line) if line else ""
