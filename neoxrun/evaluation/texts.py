"""Texts to token ids as lm-eval's ``hf`` model has them, many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from neoxrun.tokenizer import Tokenizer

_AHEAD = 1024  # texts that are encoded together


class TextEncoder:
    """Encodes the texts that lm-eval asks for, one after the other.

    Those that are known to come are encoded together, on all cores: one by one, they would take half the time of a
    small model on a GPU.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._encoded: dict[tuple[str, bool], list[int]] = {}
        self._to_come: Iterator[tuple[str, bool | None]] = iter(())

    def expect_texts(self, texts: Iterable[str]) -> None:
        """Say which texts will be asked for."""
        self._to_come = ((text, None) for text in texts)

    def expect_pairs(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Say which contexts and continuations will be asked for, as lm-eval joins them."""
        self._to_come = (
            part
            for context, continuation in pairs
            for part in (
                # Spaces at the end of a context count as the continuation's.
                ((context + continuation, None), (context.rstrip(), None)) if context else ((continuation, False),)
            )
        )

    def encode(self, text: str, add_special_tokens: bool | None) -> list[int]:
        """Token ids of ``text``.

        Args:
            text: any text.
            add_special_tokens: with the tokens that the tokenizer adds at the ends of a text; None: unless the text
                begins with the token that begins a text, which a chat template has written.
        """
        key = self._key(text, add_special_tokens)
        if key not in self._encoded:
            keys = dict.fromkeys((key, *(self._key(*one) for one in islice(self._to_come, _AHEAD))))
            self._encoded = {}
            for complete in (False, True):
                texts = [text for text, own in keys if own is complete]
                ids = self._tokenizer.encode_all(texts, complete=complete)
                self._encoded |= {(text, complete): one for text, one in zip(texts, ids, strict=True)}
        return list(self._encoded[key])

    def _key(self, text: str, add_special_tokens: bool | None) -> tuple[str, bool]:
        """A text, and whether it is complete without tokens that the tokenizer adds."""
        begins = self._tokenizer.start_text
        if add_special_tokens is None:
            return text, begins != "" and text.startswith(begins)
        return text, not add_special_tokens
