"""Sizes that bound one forward pass, the same for planning, scheduling and scoring."""

from __future__ import annotations

from typing import Final

PREFILL_TOKENS: Final = 4096
"""Most tokens of one step, of prompts and outputs together; sizes the workspace."""

LOGIT_ROWS: Final = 256
"""Positions whose logits the workspace has room for."""

SCORED_ROWS: Final = 128
"""The same where nothing is sampled: smaller blocks stay in a CPU's caches."""
