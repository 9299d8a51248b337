"""Text to token ids, and ids to text, whole or as they arrive."""

from __future__ import annotations

import codecs
import reprlib
from typing import Final, Protocol

from tokenizers import Tokenizer as _Library
from tokenizers import decoders

from neoxrun.errors import DataError

END_OF_DOCUMENT: Final = "<|endoftext|>"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable bytes stand for themselves, the others are U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES: Final = _byte_alphabet()


class StreamDecoder(Protocol):
    """Turns ids into text as they arrive; all the text together is ``Tokenizer.decode`` of all ids."""

    def push(self, token: int) -> str:
        """The text that ``token`` completes; bytes that may be the start of a character are held back."""

    def flush(self) -> str:
        """The text held back, after the last token."""


class Tokenizer:
    """A tokenizer as GPT-NeoX uses it.

    Args:
        library: the tokenizer of the ``tokenizers`` library.
        skip_special: leave special tokens out of decoded text.
    """

    def __init__(self, library: _Library, *, skip_special: bool) -> None:
        # A file may hold the padding and truncation used in training; both would silently change prompts.
        library.no_padding()
        library.no_truncation()
        self._library = library
        self._skip_special = skip_special
        self._special = frozenset(token for token, added in library.get_added_tokens_decoder().items() if added.special)
        self._bytes: dict[int, bytes] = {}

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, including added tokens; higher ids decode to nothing."""
        return self._library.get_vocab_size(with_added_tokens=True)

    @property
    def eod(self) -> int | None:
        """The id of ``<|endoftext|>``; None if it is not in the vocabulary."""
        return self._library.token_to_id(END_OF_DOCUMENT)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``.

        As in GPT-NeoX, no tokens are added, and a special token that is written out in ``text`` becomes its id. If the
        tokenizer's file defines how every text begins (a post-processor), that is applied, as in training.

        Raises:
            DataError: ``text`` holds half a UTF-16 surrogate pair, which is not a character.
        """
        try:
            return self._library.encode(text).ids
        except (UnicodeError, TypeError) as error:
            raise DataError(f"the text {reprlib.repr(text)} is not valid Unicode", code="not_text") from error

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, on all cores; see ``encode``."""
        try:
            return [encoding.ids for encoding in self._library.encode_batch(texts)]
        except (UnicodeError, TypeError):
            return [self.encode(text) for text in texts]  # its error names the text

    def encode_with_starts(self, texts: list[str]) -> list[tuple[list[int], list[int]]]:
        """Token ids of each text, as ``encode_all`` gives them, and the character at which each token begins.

        Some tokenizers leave out spaces at a token's beginning here.
        """
        encodings = self._library.encode_batch(texts)
        return [(encoding.ids, [start for start, _ in encoding.offsets]) for encoding in encodings]

    def spell(self, token: int) -> str:
        """The text of one token, a special one too; bytes that are no whole character become U+FFFD."""
        return self._library.decode([token], skip_special_tokens=False)

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``; bytes that are not UTF-8 become U+FFFD.

        As in GPT-NeoX, HFTokenizer leaves special tokens out and the GPT-2 tokenizers keep them.
        """
        return self._library.decode(ids, skip_special_tokens=self._skip_special)

    def stream(self) -> StreamDecoder:
        """A new incremental decoder, for one answer."""
        byte_level = isinstance(self._library.decoder, decoders.ByteLevel)
        return _ByteStream(self) if byte_level else _RedecodingStream(self)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that ``token`` stands for in a byte-level tokenizer."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._spell(token)
        return found

    def _spell(self, token: int) -> bytes:
        text = self._library.id_to_token(token)
        if text is None or (self._skip_special and token in self._special):
            return b""
        # Added tokens are plain text: a character that stands for no byte shows that.
        if any(character not in _BYTES for character in text):
            return text.encode()
        return bytes(_BYTES[character] for character in text)


class _ByteStream:
    """For byte-level tokenizers: one table lookup and one step of the UTF-8 decoder per token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _RedecodingStream:
    """For other tokenizers, where a token's text depends on its neighbours: all ids are decoded at each token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = ""

    def push(self, token: int) -> str:
        self._ids.append(token)
        return self._advance(self._tokenizer.decode(self._ids).rstrip("\ufffd"))

    def flush(self) -> str:
        return self._advance(self._tokenizer.decode(self._ids))

    def _advance(self, text: str) -> str:
        if not text.startswith(self._shown):
            return ""
        new = text[len(self._shown) :]
        self._shown = text
        return new
