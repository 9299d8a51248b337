"""Documents to token ids, with what is learned of them. No torch."""

from __future__ import annotations

import os
from bisect import bisect_right
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
    texts: list[tuple[str, bool]] = []
    for document in documents:
        texts.append((document.text, document.complete))
        if len(document.pieces) > 1:
            texts += _alone(document)
    encoded = _encode_all(tokenizer, texts, progress)
    for document in documents:
        ids = next(encoded)
        if len(document.pieces) == 1 and document.pieces[0].learned:
            yield EncodedDocument(np.append(ids, np.int32(eod)), None)
            continue
        alone = [next(encoded) for _ in document.pieces] if len(document.pieces) > 1 else [ids]
        bounds = list(accumulate(map(len, alone)))
        if not np.array_equal(together := np.concatenate(alone), ids):
            same = together[: len(ids)] == ids[: len(together)]
            doubtful = bisect_right(bounds, int(np.append(same, False).argmin()))
            found = _bounds(tokenizer, document, ids, doubtful, progress)
            ids, bounds = (together, bounds) if found is None else (ids, found)
        has_end = document.complete and ids[-1:].tolist() == [eod]
        if not has_end:
            ids = np.append(ids, np.int32(eod))
            bounds[-1] += 1
        learned = np.zeros(len(ids), np.bool_)
        for piece, first, stop in zip(document.pieces, [0, *bounds], bounds, strict=False):
            learned[first:stop] = piece.learned
        yield EncodedDocument(ids, learned)


def _alone(document: TrainingDocument) -> list[tuple[str, bool]]:
    """The pieces as texts of their own; what begins a text stands before the first only."""
    return [(piece.text, document.complete or number > 0) for number, piece in enumerate(document.pieces)]


def _bounds(
    tokenizer: Tokenizer,
    document: TrainingDocument,
    ids: NDArray[np.int32],
    doubtful: int,
    progress: Callable[[int], object],
) -> list[int] | None:
    """Where the tokens of each piece end in those of the whole; None if one token reaches from a piece into the next.

    Everything is encoded up to the end of each piece, which costs n / 2 times the whole for n pieces. So this is only
    asked where the pieces' own tokens are not those of the whole, and the ends of the first such piece come first.

    Args:
        tokenizer, document, progress: as for ``encode_documents``.
        ids: of the whole.
        doubtful: the first piece that has other tokens by itself.
    """
    texts = list(accumulate(piece.text for piece in document.pieces))[:-1]
    first = [number for number in (doubtful - 1, doubtful) if 0 <= number < len(texts)]
    others = [number for number in range(len(texts)) if number not in first]
    bounds = {len(texts): len(ids)}
    for numbers in (*([number] for number in first), others):
        parts = _encode_all(tokenizer, [(texts[number], document.complete) for number in numbers], progress)
        for number, part in zip(numbers, parts, strict=True):
            if not np.array_equal(ids[: len(part)], part):
                return None
            bounds[number] = len(part)
    return [bounds[number] for number in range(len(document.pieces))]


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
