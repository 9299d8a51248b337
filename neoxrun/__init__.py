"""Run GPT-NeoX models from their checkpoint files on any tensor x pipeline split.

``LLM``, ``SamplingParams`` and what they give are the Python API; ``neoxrun --help`` lists the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neoxrun.version import __version__

if TYPE_CHECKING:
    from neoxrun.api.completion import Completion as Completion
    from neoxrun.api.completion import GenerationInterrupted as GenerationInterrupted
    from neoxrun.api.llm import LLM as LLM
    from neoxrun.config.sampling import SamplingParams as SamplingParams

__all__ = ["LLM", "Completion", "GenerationInterrupted", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line must answer without torch."""
    if name == "LLM":
        from neoxrun.api.llm import LLM

        return LLM
    if name in ("Completion", "GenerationInterrupted"):
        from neoxrun.api import completion

        return getattr(completion, name)
    if name == "SamplingParams":
        from neoxrun.config.sampling import SamplingParams

        return SamplingParams
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
