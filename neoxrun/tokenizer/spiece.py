"""SentencePiece models (tokenizer.model, spiece.model).

The sentencepiece library reads them as in training, which is what GPT-NeoX does. For the class LlamaTokenizer the
result is that of transformers, which converts the file. With the class T5Tokenizer transformers 5 converts it, too, but
without byte fallback, appends ``</s>`` to every text, and takes piece 2 for unknown characters, which is ``</s>`` where
the trainer's defaults were used; here such models keep what they were trained with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec
from tokenizers import AddedToken

from neoxrun.errors import DataError
from neoxrun.tokenizer.rebuild import build_llama
from neoxrun.tokenizer.siblings import Siblings
from neoxrun.tokenizer.text import Library, Tokenizer


def load_spiece(path: Path, content: bytes, siblings: Siblings | None, hint: str) -> Tokenizer:
    """The tokenizer in a SentencePiece model.

    Args:
        path: of the file, for messages.
        content: its bytes.
        siblings: what the files next to it say; a ``config.json`` alone says nothing.
        hint: where to get the file again.

    Raises:
        DataError: the file is not a SentencePiece model.
    """
    try:
        description = ModelProto.FromString(content)
        model = SentencePieceProcessor(model_proto=content)
        if not description.pieces:
            raise RuntimeError("it has no pieces")
    except (DecodeError, RuntimeError) as error:
        raise DataError(
            f"{path} is not a SentencePiece model: it is cut off or damaged",
            code="bad_tokenizer",
            where=str(path),
            hint=hint,
        ) from error
    names = {
        name: model.id_to_piece(number)
        for name, number in (
            ("bos_token", model.bos_id()),
            ("eos_token", model.eos_id()),
            ("unk_token", model.unk_id()),
            ("pad_token", model.pad_id()),
        )
        if number >= 0
    }
    if siblings is not None and "tokenizer_class" in siblings.options:
        names |= siblings.names
    symbols = [
        AddedToken(piece.piece, normalized=False, special=piece.type == ModelProto.SentencePiece.CONTROL)
        for piece in description.pieces
        if piece.type in (ModelProto.SentencePiece.CONTROL, ModelProto.SentencePiece.USER_DEFINED)
    ]
    library: Library
    bpe = description.trainer_spec.model_type == TrainerSpec.BPE
    if siblings is not None and siblings.class_name == "LlamaTokenizer" and bpe:
        library = build_llama(
            {piece.piece: number for number, piece in enumerate(description.pieces)}, symbols, siblings
        )
    else:
        library = SpieceLibrary(model, symbols, names, siblings)
    end = model.eos_id()
    eod = end if end >= 0 else None
    cleans = siblings is not None and siblings.cleans(bpe=bpe)
    return Tokenizer(library, skip_special=True, byte_level=False, names=names, eod=eod, cleans=cleans)


@dataclass(frozen=True)
class _Encoding:
    """Token ids, and where in the text each token begins and ends, which is found only when it is asked for."""

    ids: list[int]
    find_offsets: Callable[[], list[tuple[int, int]]]

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return self.find_offsets()


class SpieceLibrary:
    """A SentencePiece model and tokens added to it, with the methods of ``tokenizers.Tokenizer`` that are used.

    A special or added token that is written out in a text becomes its id, and the texts around it are encoded by the
    model one by one, as in transformers.

    Args:
        model: the model.
        symbols: its control and user-defined symbols.
        names: the special tokens by transformers' names.
        siblings: what the other files say; None: they add no tokens.
    """

    def __init__(
        self,
        model: Any,
        symbols: Sequence[AddedToken],
        names: Mapping[str, str],
        siblings: Siblings | None,
    ) -> None:
        self._model, self._size = model, int(model.get_piece_size())
        self._added: dict[int, AddedToken] = {}
        self._ids: dict[str, int] = {}
        further: tuple[str | AddedToken, ...] = ()
        if siblings is not None:
            further = (*(token for _, token in sorted(siblings.added.items())), *siblings.extra)
        for token in (*further, *symbols, *names.values()):
            self._add(AddedToken(token, special=True) if isinstance(token, str) else token)
        # Longer tokens first: one may begin with another.
        contents = sorted(self._ids, key=len, reverse=True)
        self._splits = re.compile("|".join(map(self._pattern, contents)) or r"(?!)")
        says = (lambda key: False) if siblings is None else siblings.says
        self._before = [self._ids[names["bos_token"]]] if says("add_bos_token") and "bos_token" in names else []
        self._after = [self._ids[names["eos_token"]]] if says("add_eos_token") and "eos_token" in names else []

    def encode(self, text: str, *, add_special_tokens: bool = True) -> _Encoding:
        """The token ids of ``text``."""
        text.encode()  # half a UTF-16 pair is an error here, as in the other library
        before, after = (self._before, self._after) if add_special_tokens else ([], [])
        ids = list(before)
        for start, end, added in self._parts(text):
            ids += self._model.encode(text[start:end]) if added is None else [added]
        return _Encoding(ids + after, partial(self._offsets, text, len(before), len(after)))

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool = True) -> list[_Encoding]:
        """``encode`` of each text."""
        return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ``ids``; ids that stand for nothing are left out."""
        shown = [
            token
            for token in ids
            if self.id_to_token(token) is not None
            and not (skip_special_tokens and token in self._added and self._added[token].special)
        ]
        text = ""
        for added, run in groupby(shown, self._added.__contains__):
            tokens = list(run)
            text += "".join(self._added[token].content for token in tokens) if added else self._model.decode(tokens)
        return text

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """How many entries the vocabulary has."""
        return self._size + (sum(token >= self._size for token in self._added) if with_added_tokens else 0)

    def token_to_id(self, token: str) -> int | None:
        """The id of ``token``."""
        if token in self._ids:
            return self._ids[token]
        number = int(self._model.piece_to_id(token))
        return number if self._model.id_to_piece(number) == token else None

    def id_to_token(self, token: int) -> str | None:
        """The entry with an id."""
        if token in self._added:
            return str(self._added[token].content)
        return str(self._model.id_to_piece(token)) if token < self._size else None

    def get_added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """The added tokens by id."""
        return self._added

    def _add(self, token: AddedToken) -> None:
        if token.content not in self._ids:
            known = self.token_to_id(token.content)
            number = self.get_vocab_size() if known is None else known
            self._ids[token.content] = number
            self._added[number] = token

    def _pattern(self, content: str) -> str:
        right = r"\s*" if self._added[self._ids[content]].rstrip else ""
        return f"({re.escape(content)}){right}"

    def _parts(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """Where each part of the text begins and ends, and its id where it is an added token."""
        start = 0
        for match in self._splits.finditer(text):
            number, begin = self._ids[match[match.lastindex or 0]], match.start()
            if self._added[number].lstrip:
                # Not part of the pattern, which would look for the end of the spaces from each of them again.
                begin = start + len(text[start:begin].rstrip())
            yield start, begin, None
            yield begin, match.end(), number
            start = match.end()
        yield start, len(text), None

    def _offsets(self, text: str, before: int, after: int) -> list[tuple[int, int]]:
        found = [(0, 0)] * before
        for start, end, added in self._parts(text):
            inner = [(0, end - start)]
            if added is None:
                inner = self._model.encode_as_offset_mapping(text[start:end])["offsets"]
            found += [(start + first, start + last) for first, last in inner]
        return found + [(0, 0)] * after
