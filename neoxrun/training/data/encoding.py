"""Documents to token ids, with what is learned of them. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neoxrun.tokenizer import Tokenizer
from neoxrun.training.data.documents import TrainingDocument

LONGEST: Final = 2**20
"""Characters that are encoded as one text."""
_AT_ONCE: Final = LONGEST * min(16, os.cpu_count() or 1)
"""Characters that are encoded at the same time, on all cores. Meanwhile, for a second or three, no signal is answered;
and a library needs about a hundred bytes for each."""


class EncodedDocument(NamedTuple):
    """A document's tokens.

    Attributes:
        ids: its ids, with the end of document.
        learned: of each; None: all are.
    """

    ids: NDArray[np.int32]
    learned: NDArray[np.bool_] | None


def encode_documents(
    tokenizer: Tokenizer,
    eod: int,
    documents: Sequence[TrainingDocument],
    progress: Callable[[int], object] = lambda _: None,
) -> Iterator[EncodedDocument]:
    """The tokens of documents, on all cores, with ``eod`` after each, which is learned as the last piece is.

    (A chat template may have written it already.)

    A document in several pieces is encoded as a whole where its pieces' ends are ends of tokens; so are the tokens that
    the model sees when it answers. Where a token would reach from one piece into the next, each is encoded by itself.

    Args:
        tokenizer: the model's.
        eod: the id that ends a document.
        documents: to encode.
        progress: is told how many characters more have been encoded.
    """
    prefixes = [list(accumulate(piece.text for piece in document.pieces)) for document in documents]
    texts = [(text, one.complete) for one, own in zip(documents, prefixes, strict=True) for text in own]
    encoded = _encode_all(tokenizer, texts, progress)
    for document in documents:
        parts = [next(encoded) for _ in document.pieces]
        ids = parts[-1]
        if len(parts) == 1 and document.pieces[0].learned:
            yield EncodedDocument(np.append(ids, np.int32(eod)), None)
            continue
        if not all(np.array_equal(ids[: len(part)], part) for part in parts):
            complete = [document.complete or number > 0 for number in range(len(parts))]
            own = [(piece.text, one) for piece, one in zip(document.pieces, complete, strict=True)]
            ids = np.concatenate(alone := list(_encode_all(tokenizer, own, progress)))
            bounds = list(accumulate(map(len, alone)))
        else:
            bounds = [len(part) for part in parts]
        has_end = document.complete and ids[-1:].tolist() == [eod]
        if not has_end:
            ids = np.append(ids, np.int32(eod))
            bounds[-1] += 1
        learned = np.zeros(len(ids), np.bool_)
        for piece, first, stop in zip(document.pieces, [0, *bounds], bounds, strict=False):
            learned[first:stop] = piece.learned
        yield EncodedDocument(ids, learned)


def _encode_all(
    tokenizer: Tokenizer, texts: Sequence[tuple[str, bool]], progress: Callable[[int], object]
) -> Iterator[NDArray[np.int32]]:
    """The ids of texts, each of which may be complete, a few long ones at a time."""
    cut = [cut_text(text) for text, _ in texts]
    parts = [
        (part, complete or number > 0)
        for (_, complete), own in zip(texts, cut, strict=True)
        for number, part in enumerate(own)
    ]
    encoded = chain.from_iterable(_encode_group(tokenizer, group, progress) for group in _groups(parts))
    return (np.concatenate(list(islice(encoded, len(own)))) for own in cut)


def _groups(parts: Sequence[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    group: list[tuple[str, bool]] = []
    length = 0
    for part in parts:
        if group and length + len(part[0]) > _AT_ONCE:
            yield group
            group, length = [], 0
        group.append(part)
        length += len(part[0])
    if group:
        yield group


def _encode_group(
    tokenizer: Tokenizer, group: Sequence[tuple[str, bool]], progress: Callable[[int], object]
) -> list[NDArray[np.int32]]:
    found: dict[int, NDArray[np.int32]] = {}
    for kind in (False, True):
        numbers = [number for number, (_, complete) in enumerate(group) if complete is kind]
        encoded = tokenizer.encode_all([group[number][0] for number in numbers], complete=kind)
        found |= {number: np.array(ids, np.int32) for number, ids in zip(numbers, encoded, strict=True)}
    progress(sum(len(text) for text, _ in group))
    return [found[number] for number in range(len(group))]


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
