"""Text to token ids, and ids to text, whole or as they arrive."""

from __future__ import annotations

import codecs
import re
import reprlib
from collections.abc import Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any, Final, Protocol

from neoxrun.errors import DataError, UsageError
from neoxrun.tokenizer.clean_up import certain_part, clean_up
from neoxrun.tokenizer.ids import ids_of

END_OF_DOCUMENT: Final = "<|endoftext|>"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable bytes stand for themselves, the others are U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES: Final = _byte_alphabet()
_MOST_IDS: Final = 1 << 32  # of the library
_SPELLED_BYTE: Final = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class StreamDecoder(Protocol):
    """Turns ids into text as they arrive; all the text together is ``Tokenizer.decode`` of all ids."""

    def push(self, token: int) -> str:
        """The text that ``token`` completes; bytes that may be the start of a character are held back."""

    def flush(self) -> str:
        """The text held back, after the last token."""


class Library(Protocol):
    """What a tokenizer is made of: the part of ``tokenizers.Tokenizer`` that is used here."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Any:
        """The token ids of ``text``, as ``ids`` of what is returned."""

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool = True) -> list[Any]:
        """``encode`` of each text."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ``ids``."""

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """How many entries the vocabulary has."""

    def token_to_id(self, token: str) -> int | None:
        """The id of ``token``."""

    def id_to_token(self, token: int) -> str | None:
        """The entry with an id."""

    def get_added_tokens_decoder(self) -> Mapping[int, Any]:
        """The added tokens by id; each has a ``content`` and says whether it is ``special``."""


class Tokenizer:
    """A tokenizer as GPT-NeoX and transformers use it.

    Args:
        library: what it is made of.
        skip_special: leave special tokens out of decoded text.
        byte_level: whether every entry stands for bytes by GPT-2's characters.
        names: what the model's files call the special tokens, as in transformers (``bos_token`` and so on).
        cleans: take spaces out of decoded text (``clean_up_tokenization_spaces``).

    Attributes:
        names: the same.
        eod: the id of ``<|endoftext|>``, or else of the token that a SentencePiece model ends texts with; None if there
            is neither.
        bos: the id of the token that texts begin with, where the model's files name one.
        eos: the id of the token that texts end with, where the model's files name one.
    """

    def __init__(
        self,
        library: Library,
        *,
        skip_special: bool,
        byte_level: bool,
        names: Mapping[str, str] = MappingProxyType({}),
        eod: int | None = None,
        cleans: bool = False,
    ) -> None:
        self._library = library
        self._cleans = cleans
        self._skip_special = skip_special
        self._byte_level = byte_level
        self._special = {
            token: added.content for token, added in library.get_added_tokens_decoder().items() if added.special
        }
        self._bytes: dict[int, bytes] = {}
        self._rows = _MOST_IDS
        self.names = names
        end_of_document = library.token_to_id(END_OF_DOCUMENT)
        self.eod = eod if end_of_document is None else end_of_document
        self.bos = self._named("bos_token")
        self.eos = self._named("eos_token")

    def of_model(self, rows: int) -> Tokenizer:
        """The same for a model whose vocabulary has as many rows: ``decode`` refuses ids that it does not have."""
        limited = copy(self)
        limited._rows = rows
        return limited

    def _named(self, name: str) -> int | None:
        return self._library.token_to_id(self.names[name]) if name in self.names else None

    def token_id(self, token: str) -> int | None:
        """The id of an entry of the vocabulary; None if there is no such entry."""
        return self._library.token_to_id(token)

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, including added tokens; higher ids decode to nothing."""
        return self._library.get_vocab_size(with_added_tokens=True)

    @property
    def trained_size(self) -> int:
        """Entries of the vocabulary without those that were added to it."""
        return self._library.get_vocab_size(with_added_tokens=False)

    @property
    def start(self) -> int | None:
        """The token that stands before a text without a context: ``bos``, else ``eos``, else ``eod``.

        (lm-eval's order. A tokenizer whose files name none has GPT-NeoX's.)
        """
        return next((token for token in (self.bos, self.eos, self.eod) if token is not None), None)

    @property
    def start_text(self) -> str:
        """How ``start`` is written; empty where there is no such token."""
        return "" if self.start is None else self._library.id_to_token(self.start) or ""

    def special_ids(self, texts: Sequence[str]) -> dict[int, str]:
        """How the special tokens within ``texts`` are written, by their ids; decoded text does not show these."""
        if not self._skip_special:
            return {}
        return {token: content for token, content in self._special.items() if any(content in text for text in texts)}

    def encode(self, text: str, *, complete: bool = False) -> list[int]:
        """Token ids of ``text``.

        A special token that is written out in ``text`` becomes its id. If the tokenizer's files define how every text
        begins or ends (a post-processor), that is applied, as in training.

        Args:
            text: any text.
            complete: add no tokens at its ends: it has them already, as what a chat template makes.

        Raises:
            DataError: ``text`` holds half a UTF-16 surrogate pair, which is not a character.
            UsageError: ``text`` is not a text.
        """
        try:
            return list(self._library.encode(text, add_special_tokens=not complete).ids)
        except (UnicodeError, TypeError) as error:
            if not isinstance(text, str):
                raise UsageError(f"{reprlib.repr(text)} is not a text", code="invalid_value") from None
            raise DataError(f"the text {reprlib.repr(text)} is not valid Unicode", code="not_text") from error

    def encode_all(self, texts: list[str], *, complete: bool = False) -> list[list[int]]:
        """Token ids of each text, on all cores; see ``encode``."""
        try:
            encodings = self._library.encode_batch(texts, add_special_tokens=not complete)
            return [list(encoding.ids) for encoding in encodings]
        except (UnicodeError, TypeError):
            return [self.encode(text, complete=complete) for text in texts]  # its error names the text

    def encode_with_starts(self, texts: list[str]) -> list[tuple[list[int], list[int]]]:
        """Token ids of each text as a whole, and the character at which each token begins.

        A text that begins with ``start_text`` is complete, see ``encode``. Some tokenizers leave out spaces that a
        token begins with, and say that tokens which they add begin at 0.
        """
        begins = self.start_text
        complete = [begins != "" and text.startswith(begins) for text in texts]
        found: list[tuple[list[int], list[int]]] = [([], [])] * len(texts)
        for kind in (False, True):
            numbers = [number for number, own in enumerate(complete) if own is kind]
            encodings = self._library.encode_batch([texts[number] for number in numbers], add_special_tokens=not kind)
            for number, encoding in zip(numbers, encodings, strict=True):
                found[number] = list(encoding.ids), [start for start, _ in encoding.offsets]
        return found

    def spell(self, token: int) -> str:
        """The text of one token, a special one too; bytes that are no whole character become U+FFFD."""
        return self._library.decode([token], skip_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, which may be an array or a tensor; bytes that are not UTF-8 become U+FFFD.

        As in GPT-NeoX, HFTokenizer leaves special tokens out and the GPT-2 tokenizers keep them.

        Raises:
            UsageError: they are not token ids, or, see ``of_model``, not those of the model.
        """
        tokens = ids_of(ids)
        if tokens is None:
            raise UsageError(
                f"{reprlib.repr(ids)} is not a list of token ids", code="invalid_value", hint="For example [0, 1]."
            )
        wrong = next((token for token in tokens if not 0 <= token < self._rows), None)
        if wrong is not None:
            raise UsageError(f"{wrong} is not a token id: they are 0 to {self._rows - 1}", code="invalid_value")
        text = self.decode_raw(tokens)
        return clean_up(text) if self._cleans else text

    def decode_raw(self, ids: list[int]) -> str:
        """``decode`` before spaces are taken out."""
        return self._library.decode(ids, skip_special_tokens=self._skip_special)

    def stream(self) -> StreamDecoder:
        """A new incremental decoder, for one answer."""
        return _ByteStream(self) if self._byte_level and not self._cleans else _RedecodingStream(self, self._cleans)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that ``token`` stands for in a byte-level tokenizer."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._spell(token)
        return found

    def is_byte(self, token: int) -> bool:
        """Whether ``token`` stands for one byte, written as ``<0x0A>`` (byte fallback)."""
        return _SPELLED_BYTE.fullmatch(self._library.id_to_token(token) or "") is not None

    def is_hidden(self, token: int) -> bool:
        """Whether decoded text leaves ``token`` out."""
        return self._library.id_to_token(token) is None or (self._skip_special and token in self._special)

    def _spell(self, token: int) -> bytes:
        text = self._library.id_to_token(token)
        if text is None or self.is_hidden(token):
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
    """For other tokenizers, where a token's text depends on its neighbours: all ids are decoded at each token.

    A run of bytes is held back until it ends: as decoders have it, one byte too many makes U+FFFD of all of them.
    """

    def __init__(self, tokenizer: Tokenizer, cleans: bool) -> None:
        self._tokenizer, self._cleans = tokenizer, cleans
        self._ids: list[int] = []
        self._in_bytes = False
        self._shown = 0

    def push(self, token: int) -> str:
        self._ids.append(token)
        if not self._tokenizer.is_hidden(token):
            self._in_bytes = self._tokenizer.is_byte(token)
        if self._in_bytes:
            return ""
        text = self._tokenizer.decode_raw(self._ids).rstrip("\ufffd")
        return self._advance(clean_up(certain_part(text)) if self._cleans else text)

    def flush(self) -> str:
        return self._advance(self._tokenizer.decode(self._ids))

    def _advance(self, text: str) -> str:
        start, self._shown = self._shown, max(self._shown, len(text))
        return text[start:]
