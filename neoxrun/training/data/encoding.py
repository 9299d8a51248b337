"""Documents to token ids, with what is learned of them. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neoxrun.tokenizer import Tokenizer
from neoxrun.training.data.documents import TrainingDocument

LONGEST: Final = 2**20
"""Characters that are encoded at once; a library needs about a hundred bytes for each."""


class EncodedDocument(NamedTuple):
    """A document's tokens.

    Attributes:
        ids: its ids, with the end of document.
        learned: of each; None: all are.
    """

    ids: list[int]
    learned: NDArray[np.bool_] | None


def encode_documents(
    tokenizer: Tokenizer, eod: int, documents: Sequence[TrainingDocument]
) -> Iterator[EncodedDocument]:
    """The tokens of documents, on all cores, with ``eod`` after each, which is learned as the last piece is.

    (A chat template may have written it already.)

    A document in several pieces is encoded as a whole where its pieces' ends are ends of tokens; so are the tokens that
    the model sees when it answers. Where a token would reach from one piece into the next, each is encoded by itself.
    """
    prefixes = [list(accumulate(piece.text for piece in document.pieces)) for document in documents]
    encoded = iter(
        _encode_all(
            tokenizer, [(text, one.complete) for one, texts in zip(documents, prefixes, strict=True) for text in texts]
        )
    )
    for document, texts in zip(documents, prefixes, strict=True):
        parts = [next(encoded) for _ in texts]
        ids = parts[-1]
        if len(parts) == 1 and document.pieces[0].learned:
            yield EncodedDocument([*ids, eod], None)
            continue
        bounds = [len(part) for part in parts]
        if any(ids[: len(part)] != part for part in parts):
            own = [
                tokenizer.encode(piece.text, complete=document.complete or number > 0)
                for number, piece in enumerate(document.pieces)
            ]
            ids, bounds = [token for part in own for token in part], list(accumulate(map(len, own)))
        end = [] if document.complete and ids[-1:] == [eod] else [eod]
        learned = np.zeros(len(ids) + len(end), np.bool_)
        for piece, first, stop in zip(document.pieces, [0, *bounds], bounds, strict=False):
            learned[first:stop] = piece.learned
        learned[len(ids) :] = document.pieces[-1].learned
        yield EncodedDocument([*ids, *end], learned)


def _encode_all(tokenizer: Tokenizer, texts: Sequence[tuple[str, bool]]) -> list[list[int]]:
    """The ids of texts, each of which may be complete."""
    found: list[list[int]] = [[] for _ in texts]
    for kind in (False, True):
        numbers = [number for number, (_, complete) in enumerate(texts) if complete is kind]
        cut = [cut_text(texts[number][0]) for number in numbers]
        encoded = iter(tokenizer.encode_all([text for parts in cut for text in parts], complete=kind))
        for number, parts in zip(numbers, cut, strict=True):
            for _ in parts:
                found[number] += next(encoded)
    return found


def cut_text(text: str) -> list[str]:
    """A long text in parts of at most about ``LONGEST`` characters.

    They end after a line feed that stands alone, where the tokenizers of GPT-NeoX's family end a token anyway.
    """
    parts = []
    begin = 0
    while len(text) - begin > LONGEST:
        at = text.rfind("\n", begin, begin + LONGEST)
        while at > begin and (text[at - 1].isspace() or text[at + 1 : at + 2].isspace()):
            at = text.rfind("\n", begin, at)
        end = begin + LONGEST if at <= begin else at + 1
        parts.append(text[begin:end])
        begin = end
    return [*parts, text[begin:]]
