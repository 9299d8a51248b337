"""Sizes that bound one forward pass, the same for planning, scheduling and scoring."""

from __future__ import annotations

from typing import Final

PREFILL_TOKENS: Final = 4096
"""Most tokens, padding included, of one prefill pass of several prompts; sizes the workspace."""

LOGIT_ROWS: Final = 256
"""Most positions whose logits exist at one time."""

SCORED_ROWS: Final = 128
"""The same where nothing is sampled: smaller blocks stay in a CPU's caches."""
