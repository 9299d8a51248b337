"""Text to token ids and back, with the tokenizers that GPT-NeoX models come with."""

from __future__ import annotations

import codecs
import json
import reprlib
from pathlib import Path
from typing import Any, Final, Protocol

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as _Library

from neoxrun.config.released import download_command
from neoxrun.config.settings import TokenizerConfig
from neoxrun.errors import ConfigError, DataError

END_OF_DOCUMENT: Final = "<|endoftext|>"
_PADDING: Final = "<|padding|>"
_TYPES: Final = {name.lower(): name for name in ("HFTokenizer", "GPT2BPETokenizer", "HFGPT2Tokenizer")}


class StreamDecoder(Protocol):
    """Turns ids into text while they come; all pieces together are ``Tokenizer.decode`` of all ids."""

    def push(self, token: int) -> str:
        """The text that ``token`` makes final; bytes that may yet become a character are kept back."""

    def flush(self) -> str:
        """What was kept back, after the last token."""


class Tokenizer:
    """A tokenizer as GPT-NeoX uses it.

    Args:
        library: the tokenizer.
        skip_special: leave special tokens out of decoded text.
    """

    def __init__(self, library: _Library, *, skip_special: bool) -> None:
        # A file may carry the padding and truncation of its training; both would silently change prompts.
        library.no_padding()
        library.no_truncation()
        self._library = library
        self._skip_special = skip_special
        self._special = frozenset(token for token, added in library.get_added_tokens_decoder().items() if added.special)
        self._pieces: dict[int, bytes] = {}

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, added tokens included; ids beyond it decode to nothing."""
        return self._library.get_vocab_size(with_added_tokens=True)

    @property
    def eod(self) -> int | None:
        """The id of ``<|endoftext|>``; None where the vocabulary has none."""
        return self._library.token_to_id(END_OF_DOCUMENT)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``.

        As in GPT-NeoX, nothing is added by us, and a special token that is written out in ``text`` becomes
        its id. A file that itself says how every text begins (a post-processor) is obeyed, as in training.

        Raises:
            DataError: ``text`` holds half a UTF-16 pair, which is no character.
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
            return [self.encode(text) for text in texts]  # which says what text it is

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``; bytes that are not UTF-8 become U+FFFD.

        As in GPT-NeoX, HFTokenizer leaves special tokens out and the GPT-2 tokenizers write them out.
        """
        return self._library.decode(ids, skip_special_tokens=self._skip_special)

    def stream(self) -> StreamDecoder:
        """A fresh incremental decoder for one answer."""
        byte_level = isinstance(self._library.decoder, decoders.ByteLevel)
        return _ByteStream(self) if byte_level else _TextStream(self)

    def piece(self, token: int) -> bytes:
        """The bytes that ``token`` stands for, of a byte-level tokenizer."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._spell(token)
        return piece

    def _spell(self, token: int) -> bytes:
        text = self._library.id_to_token(token)
        if text is None or (self._skip_special and token in self._special):
            return b""
        # Added tokens are plain text; a character without a byte of its own tells them from the others.
        if any(character not in _BYTES for character in text):
            return text.encode()
        return bytes(_BYTES[character] for character in text)


class _ByteStream:
    """Byte-level tokenizers: one table look-up and one step of the UTF-8 decoder a token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._utf8.decode(self._tokenizer.piece(token))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _TextStream:
    """Other tokenizers, where a token's text depends on its neighbours: all is decoded each time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = ""

    def push(self, token: int) -> str:
        self._ids.append(token)
        return self._advance(self._tokenizer.decode(self._ids).rstrip("\ufffd"))

    def flush(self) -> str:
        return self._advance(self._tokenizer.decode(self._ids))

    def _advance(self, text: str) -> str:
        if not text.startswith(self._given):
            return ""
        new = text[len(self._given) :]
        self._given = text
        return new


def load(config: TokenizerConfig) -> Tokenizer:
    """Read the tokenizer that a configuration names.

    Raises:
        ConfigError: a type that is not supported, or no file is named.
        DataError: a file that is missing, damaged or not a tokenizer.
    """
    kind = _kind(config)
    path = _vocab_file(config)
    if kind == "HFTokenizer":
        text = _text(path, config)
        try:
            return Tokenizer(_Library.from_str(text), skip_special=True)
        except Exception as error:  # the library raises nothing more precise
            raise _damaged(path, _json(path, text), error) from error

    vocab_path, merge_path = _gpt2_files(kind, path, config)
    vocabulary = _vocabulary(vocab_path, config)
    merges = _text(merge_path, config, "merge file")
    try:
        library = _Library(models.BPE(vocabulary, _merges(merges)))
    except Exception as error:
        raise DataError(
            f"{merge_path} does not belong to {vocab_path}: {error}",
            code="bad_tokenizer",
            where=str(merge_path),
            hint="the two files come from the same tokenizer",
        ) from error
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    if END_OF_DOCUMENT in vocabulary:
        library.add_special_tokens([AddedToken(END_OF_DOCUMENT, special=True, normalized=False)])
    if kind == "HFGPT2Tokenizer":
        library.add_special_tokens([AddedToken(_PADDING, special=True, normalized=False)])
    return Tokenizer(library, skip_special=False)


def vocabulary_size(config: TokenizerConfig) -> int | None:
    """``vocab_size`` of the tokenizer without building it; None where there is no file yet.

    Raises:
        ConfigError: a type that is not supported.
        DataError: the file is there, and is damaged or not a tokenizer.
    """
    kind = _kind(config)
    if config.vocab_file is None or not config.vocab_file.exists():
        return None
    if kind != "HFTokenizer":
        vocabulary = _vocabulary(_gpt2_files(kind, config.vocab_file, config)[0], config)
        return len(vocabulary.keys() | {_PADDING}) if kind == "HFGPT2Tokenizer" else len(vocabulary)
    content = _json(config.vocab_file, _text(config.vocab_file, config))
    try:
        entries = content["model"]["vocab"]
        # A mapping, or (Unigram) a list of pairs.
        names = set(entries) if isinstance(entries, dict) else {name for name, _ in entries}
        return len(names | {added["content"] for added in content["added_tokens"]})
    except (LookupError, TypeError, ValueError) as error:
        raise _damaged(config.vocab_file, content, error) from error


def _kind(config: TokenizerConfig) -> str:
    kind = _TYPES.get(config.tokenizer_type.lower())
    if kind is None:
        raise ConfigError(
            f"tokenizer_type: {config.tokenizer_type} is not supported",
            code="unsupported_option",
            hint=f"supported: {', '.join(_TYPES.values())} (a tokenizer.json is an HFTokenizer)",
        )
    return kind


def _vocab_file(config: TokenizerConfig) -> Path:
    if config.vocab_file is None:
        raise ConfigError(
            "the configuration names no tokenizer",
            code="incomplete_configuration",
            hint="set vocab_file in the configuration, or give --tokenizer FILE",
        )
    return config.vocab_file


def _gpt2_files(kind: str, path: Path, config: TokenizerConfig) -> tuple[Path, Path]:
    """vocab.json and merges.txt; HFGPT2Tokenizer's ``vocab_file`` is the folder of both."""
    if kind == "HFGPT2Tokenizer" and path.is_dir():
        return path / "vocab.json", path / "merges.txt"
    merge_file = config.merge_file
    if merge_file is None:
        raise ConfigError(
            f"tokenizer_type {kind} needs a merge_file beside the vocab_file {path}",
            code="incomplete_configuration",
            hint="--set merge_file=FILE; or, for a Hugging Face tokenizer.json, --set tokenizer_type=HFTokenizer",
        )
    return path, merge_file


def _vocabulary(path: Path, config: TokenizerConfig) -> dict[str, int]:
    """The token -> id mapping of a GPT-2 vocab.json."""
    content = _json(path, _text(path, config))
    if isinstance(content, dict) and "model" in content:
        raise DataError(
            f"{path} is a tokenizer of type HFTokenizer, but the configuration says {config.tokenizer_type}",
            code="bad_tokenizer",
            where=str(path),
            hint="set tokenizer_type: HFTokenizer, in the configuration or with --set",
        )
    if not isinstance(content, dict) or not all(type(number) is int for number in content.values()):
        raise DataError(
            f"{path} is not a vocabulary: it does not map tokens to ids", code="bad_tokenizer", where=str(path)
        )
    return content


def _merges(text: str) -> list[tuple[str, str]]:
    """The pairs of a merges.txt; its first line may be a version."""
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("#version")]
    pairs = [tuple(line.rstrip("\r").split(" ")) for line in lines]
    wrong = next((number for number, pair in enumerate(pairs) if len(pair) != 2), None)
    if wrong is not None:
        raise ValueError(f"merge {wrong + 1} is not two tokens")
    return [(left, right) for left, right in pairs]


def _text(path: Path, config: TokenizerConfig, what: str = "tokenizer file") -> str:
    """The text of one of the tokenizer's files."""
    hint = _hint(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        looked = [place for place in config.looked_in if place != path] if path == config.vocab_file else []
        also = f" (nor {', '.join(str(place) for place in looked)})" if looked else ""
        raise DataError(f"there is no {what} {path}{also}", code="missing_file", where=str(path), hint=hint) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file", code="not_text", where=str(path), hint=hint) from error
    except OSError as error:
        raise DataError(
            f"the {what} {path} cannot be read: {error.strerror}", code="unreadable_file", where=str(path), hint=hint
        ) from error
    if not text.strip():
        raise DataError(f"the {what} {path} is empty", code="bad_tokenizer", where=str(path), hint=hint)
    if text.lstrip().startswith("<"):
        raise DataError(
            f"{path} is a web page, not a {what}: its download went wrong",
            code="bad_tokenizer",
            where=str(path),
            hint=hint,
        )
    return text


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(
            f"{path} is not JSON: it is cut off or damaged",
            code="bad_tokenizer",
            where=f"{path}{line}",
            hint=_hint(path),
        ) from error


def _damaged(path: Path, content: Any, error: Exception) -> DataError:
    """What is wrong with a JSON file that is not a tokenizer."""
    foreign = isinstance(content, dict) and "model" not in content
    problem = "it has no `model`" if foreign else str(error)
    return DataError(
        f"{path} is not a tokenizer.json: {problem}", code="bad_tokenizer", where=str(path), hint=_hint(path)
    )


def _hint(path: Path) -> str:
    """How to get a tokenizer that is not there or not whole."""
    command = download_command(path.parent)
    if command is None:
        return "name the model's own tokenizer with --tokenizer FILE"
    return f"get the tokenizer with `{command}`, or name it with --tokenizer FILE"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones as themselves, the others as characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES: Final = _byte_alphabet()
