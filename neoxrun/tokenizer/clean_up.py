"""Spaces that transformers takes out of decoded text, where a tokenizer_config.json says so."""

from __future__ import annotations

from typing import Final

# What is replaced, in this order, as in transformers' `clean_up_tokenization`.
_CLEANED: Final = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
# What the fifth turns into one of those after it.
_LATER: Final = tuple(text.replace("'", " ' ") for text, _ in _CLEANED[5:])
_BEGINNINGS: Final = sorted(
    {text[:length] for text in (*(text for text, _ in _CLEANED), *_LATER) for length in range(1, len(text))}
)


def clean_up(text: str) -> str:
    """``text`` without the spaces before punctuation and contracted words."""
    for found, instead in _CLEANED:
        text = text.replace(found, instead)
    return text


def certain_part(text: str) -> str:
    """The beginning of a text that is cleaned as it is, whatever is added to the text before it is cleaned.

    A text of ``_CLEANED`` may begin at its end, and take part of what another one would replace.
    """
    while ending := next((one for one in _BEGINNINGS if text.endswith(one)), ""):
        text = text[: -len(ending)]
    return text
