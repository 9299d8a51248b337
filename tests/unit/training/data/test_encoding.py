"""Tokens of documents, and which of them are learned."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import neoxrun.training.data.encoding
from neoxrun.tokenizer import Tokenizer
from neoxrun.training.data.documents import Piece, TrainingDocument
from neoxrun.training.data.encoding import EncodedDocument, cut_text, encode_documents
from support.paths import ROOT
from support.tiny_models import demo_tokenizer

TOKENIZER = demo_tokenizer()
EOD = 0
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def document(*pieces: tuple[str, bool], complete: bool = False) -> TrainingDocument:
    return TrainingDocument(tuple(Piece(*piece) for piece in pieces), complete, "a.jsonl:1")


def encoded(*documents: TrainingDocument, tokenizer: Tokenizer = TOKENIZER) -> list[EncodedDocument]:
    return list(encode_documents(tokenizer, EOD, documents))


def marked(found: EncodedDocument) -> list[tuple[str, bool]]:
    assert found.learned is not None
    assert len(found.learned) == len(found.ids)
    return [(TOKENIZER.spell(int(token)), bool(one)) for token, one in zip(found.ids, found.learned, strict=True)]


def test_a_text_ends_with_the_end_of_document() -> None:
    first, second = encoded(document(("import os", True)), document(("", True)))
    assert first.ids.tolist() == [*TOKENIZER.encode("import os"), EOD]
    assert first.learned is second.learned is None
    assert second.ids.tolist() == [EOD]


def test_a_completion_is_learned_with_its_end() -> None:
    (found,) = encoded(document(("import", False), (" os", True)))
    assert found.ids.tolist() == [*TOKENIZER.encode("import os"), EOD], "encoded as one text"
    assert marked(found) == [("import", False), (" os", True), ("<|endoftext|>", True)]


def test_where_a_token_would_reach_over_the_end_of_a_prompt_both_are_encoded_alone() -> None:
    """What `generate` gives the model for this prompt is its encoding alone, so that is what is trained on."""
    (found,) = encoded(document(("import ", False), ("os", True)))
    prompt = TOKENIZER.encode("import ")
    assert TOKENIZER.encode("import os")[: len(prompt)] != prompt
    assert found.ids.tolist() == [*prompt, *TOKENIZER.encode("os"), EOD]
    assert found.learned is not None
    assert found.learned.tolist() == [False] * len(prompt) + [True] * (len(found.ids) - len(prompt))


def test_an_end_that_the_template_writes_is_not_written_twice() -> None:
    last, other = encoded(
        document(("a\n", False), ("b<|endoftext|>", True), complete=True), document(("a<|endoftext|>", True))
    )
    assert last.ids.tolist().count(EOD) == 1
    assert marked(last)[-1] == ("<|endoftext|>", True)
    assert other.ids.tolist()[-2:] == [EOD, EOD], "but a text has what preprocess_data.py appends, whatever it is"


def test_what_follows_the_last_answer_is_not_learned() -> None:
    (found,) = encoded(document(("q\n", False), ("x\n", True), ("q\n", False), complete=True))
    assert [one for _, one in marked(found)][-2:] == [False, False]
    assert sum(one for _, one in marked(found)) == len(TOKENIZER.encode("x\n"))


@given(st.lists(st.tuples(st.text("ab \n<", max_size=8), st.booleans()), min_size=1, max_size=5))
def test_the_learned_tokens_are_the_learned_text(pieces: list[tuple[str, bool]]) -> None:
    (found,) = encoded(document(*pieces))
    learned = [True] * len(found.ids) if found.learned is None else found.learned.tolist()
    ids = [int(token) for token, one in zip(found.ids, learned, strict=True) if one]
    end = [EOD] if pieces[-1][1] else []
    assert ids[len(ids) - len(end) :] == end
    text = "".join(TOKENIZER.spell(token) for token in ids[: len(ids) - len(end)])
    assert text == "".join(text for text, one in pieces if one)


@given(
    st.lists(st.tuples(st.text("ab \n<", max_size=8), st.booleans()), min_size=2, max_size=6),
    st.booleans(),
    st.sampled_from(["a", "", "<|endoftext|>"]),
)
def test_a_text_is_encoded_as_a_whole_where_each_beginning_is(
    pieces: list[tuple[str, bool]], complete: bool, end: str
) -> None:
    """Against the definition, which encodes the text up to the end of each piece."""
    pieces = [(text + end, learned) for text, learned in pieces]
    (found,) = encoded(document(*pieces, complete=complete))
    beginnings = list(itertools.accumulate(text for text, _ in pieces))
    parts = [TOKENIZER.encode(text, complete=complete) for text in beginnings]
    ids = parts[-1]
    if any(ids[: len(part)] != part for part in parts):
        parts = list(itertools.accumulate(TOKENIZER.encode(text, complete=True) for text, _ in pieces))
        ids = parts[-1]
    bounds = [0, *map(len, parts)]
    marks = [mark for number, (_, mark) in enumerate(pieces) for _ in range(bounds[number], bounds[number + 1])]
    if not complete or ids[-1:] != [EOD]:
        ids, marks = [*ids, EOD], [*marks, pieces[-1][1]]
    assert found.ids.tolist() == ids
    assert (found.learned if found.learned is not None else np.ones(len(ids), np.bool_)).tolist() == marks


@pytest.mark.parametrize(("end", "passes"), [("<|endoftext|>", 2), (" ", 3)])
def test_a_long_conversation_is_not_encoded_from_the_beginning_for_each_turn(end: str, passes: int) -> None:
    turns = [(f"some words of turn {number}{end}", number % 2 == 1) for number in range(40)]
    counts: list[int] = []
    list(encode_documents(TOKENIZER, EOD, [document(*turns, complete=True)], counts.append))
    assert sum(counts) <= passes * sum(len(text) for text, _ in turns)


def test_long_texts_are_cut_where_it_makes_no_difference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(neoxrun.training.data.encoding, "LONGEST", 500)
    monkeypatch.setattr(neoxrun.training.data.encoding, "_AT_ONCE", 1200)
    text = TEXT.replace("\n\n", "\n")
    parts = cut_text(text)
    assert "".join(parts) == text
    assert len(parts) > len(text) / 500
    assert max(map(len, parts)) <= 500
    whole, cut = TOKENIZER.encode(text), encoded(document((text, True)))[0].ids.tolist()
    assert cut == [*whole, EOD]


def test_a_text_without_a_good_place_is_cut_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neoxrun.training.data.encoding, "LONGEST", 10)
    generator = random.Random(0)
    for _ in range(200):
        text = "".join(generator.choices("ab\n \r", k=generator.randrange(60)))
        parts = cut_text(text)
        assert "".join(parts) == text
        assert all(0 < len(part) <= 10 for part in parts[:-1])
