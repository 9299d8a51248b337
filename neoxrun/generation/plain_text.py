"""Answers as text on stdout, for people and for pipes. No torch."""

from __future__ import annotations

from typing import IO

from neoxrun.generation.lines import LineWriter
from neoxrun.generation.records import Record


class TextWriter(LineWriter):
    """Writes the answers to one prompt: a single one as its text comes, several as they end, each under its number.

    Args:
        stream: where they go.
        count: how many there are.
    """

    def __init__(self, stream: IO[str], count: int) -> None:
        super().__init__(None, stream, 0)
        self._count = count
        self._shown = ""

    @property
    def streams(self) -> bool:
        """Whether ``show`` is wanted."""
        return self._count == 1

    def show(self, text: str) -> None:
        """Write text that has become certain.

        Raises:
            DataError: it cannot be written.
            BrokenPipeError: the reader of a pipe is gone.
        """
        if text:
            self.write_text(text)
            self._shown += text

    def write(self, record: Record) -> None:
        """Write what is left of the single answer, or one of several; nothing for an error.

        Raises:
            DataError: it cannot be written.
            BrokenPipeError: the reader of a pipe is gone.
        """
        if record.text is None:
            return
        if self.streams:
            shown, self._shown = self._shown, ""
            self.write_text(f"{record.text.removeprefix(shown)}\n")
        else:
            self.write_line(f"--- {(record.sample or 0) + 1} of {self._count} ---\n{record.text}")

    def close(self) -> None:
        """End the line, so that an error that cut an answer short begins on the next."""
        if self._shown:
            self._shown = ""
            self.write_text("\n")
