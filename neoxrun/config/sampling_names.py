"""What other tools call the sampling parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from neoxrun.errors import UsageError
from neoxrun.terminal.words import did_you_mean, printable

FOREIGN_PARAMETERS: Final[Mapping[str, str]] = {
    "max_tokens": "maximum_tokens",
    "max_new_tokens": "maximum_tokens",
    "max_completion_tokens": "maximum_tokens",
    "n_predict": "maximum_tokens",
    "temp": "temperature",
    "repeat_penalty": "repetition_penalty",
    "stop_strings": "stop",
    "stop_sequences": "stop",
}
"""Of transformers, vLLM and llama.cpp."""

EXPLAINED_PARAMETERS: Final[Mapping[str, str]] = {
    "do_sample": "A temperature above 0 samples; temperature=0 does not.",
    "max_length": "Answers are counted without their prompts: maximum_tokens=N.",
    "n": "Give n to generate, next to the parameters; a stream or a future is one answer.",
    "num_return_sequences": "Give n to generate, next to the parameters.",
    "prompt_logprobs": "Give prompt_logprobs to generate, next to the parameters; a stream or a future has none.",
    "num_beams": "There is no beam search: leave it out.",
    "use_beam_search": "There is no beam search: leave it out.",
    "stop_token_ids": "A special token ends an answer where its text is in stop.",
}
"""Names that nothing here takes the place of, and what to do instead."""


def own_names(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The same values under our own names.

    Raises:
        UsageError: a name is unknown, or two of them are the same parameter.
    """
    found: dict[str, Any] = {}
    first: dict[str, str] = {}
    for name, value in given.items():
        ours = FOREIGN_PARAMETERS.get(name, name)
        if ours not in known:
            raise unknown_parameter(name, known)
        if ours in found:
            other, own = (first[ours], name) if name == ours else (name, first[ours])
            raise UsageError(
                f"{other} is another name of {own}, which is given too",
                code="conflicting_options",
                hint="Leave one of them out.",
            )
        found[ours], first[ours] = value, name
    return found


def unknown_parameter(name: str, known: Collection[str]) -> UsageError:
    """The error for a parameter that is not one of ``known``."""
    near = did_you_mean(str(name), [*known, *FOREIGN_PARAMETERS], 1)
    hint = EXPLAINED_PARAMETERS.get(name) or near or f"The parameters are: {', '.join(sorted(known))}."
    return UsageError(f"{printable(str(name))} is not a sampling parameter", code="unknown_option", hint=hint)
