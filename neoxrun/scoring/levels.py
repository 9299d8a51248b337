"""The smallest units whose scores the records list."""

from __future__ import annotations

from typing import Literal, get_args

Level = Literal["document", "word", "token"]
LEVELS: tuple[Level, ...] = get_args(Level)
