"""Ctrl-C while the engine runs."""

from __future__ import annotations

import signal
from types import FrameType


class StopFlag:
    """Ctrl-C as a flag, to be checked between steps; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.raised = False

    def install(self) -> None:
        """Take over SIGINT."""
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True
