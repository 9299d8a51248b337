"""Run GPT-NeoX models from their checkpoint files on any tensor x pipeline split.

``LLM`` and ``SamplingParams`` are the Python API; ``neoxrun --help`` lists the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neoxrun.version import __version__

if TYPE_CHECKING:
    from neoxrun.config.sampling import SamplingParams as SamplingParams
    from neoxrun.llm import LLM as LLM

__all__ = ["LLM", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line must answer without torch."""
    if name == "LLM":
        from neoxrun.llm import LLM

        return LLM
    if name == "SamplingParams":
        from neoxrun.config.sampling import SamplingParams

        return SamplingParams
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
