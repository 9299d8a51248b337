"""Whether SIGTERM has asked this process to end: a dialogue, which Ctrl-C does not end, must tell the two apart."""

from __future__ import annotations

import threading
from typing import Final

ASKED_TO_END: Final = threading.Event()
"""Set before SIGTERM is passed on as Ctrl-C."""
