"""Where the checkout is, the demo model in it, and the reference checkpoints of the tests."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo"
FIXTURES = ROOT / "tests" / "parity" / "fixtures"
