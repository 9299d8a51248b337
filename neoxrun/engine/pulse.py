"""What a rank is doing, for whoever watches it from another thread."""

from __future__ import annotations

from types import TracebackType


class Pulse:
    """A context around each pass through the network, with everything that may wait for other ranks or a device.

    Attributes:
        passes: how many have begun.
        inside: whether one is under way.
    """

    def __init__(self) -> None:
        self.passes = 0
        self.inside = False

    def __enter__(self) -> None:
        self.passes += 1
        self.inside = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.inside = False
