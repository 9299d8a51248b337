"""Where the checkout is, the demo model in it, and the reference checkpoints of the tests."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo"
FIXTURES = ROOT / "tests" / "parity" / "fixtures"


def shared_folder() -> Path:
    """The folder with the published data sets: next to the checkout on the project's own CI, or named otherwise."""
    return Path(os.environ.get("NEOXRUN_SHARED", ROOT.parent / "shared"))
