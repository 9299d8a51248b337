"""Spaces that are taken out of text that arrives piece by piece."""

from __future__ import annotations

import itertools

import pytest
from transformers import PreTrainedTokenizerBase

from neoxrun.tokenizer.clean_up import certain_part, clean_up

TEXTS = ["".join(parts) for parts in itertools.product((" ", "'", "n", "n't", "ve", "m", ",", "."), repeat=5)]


def test_texts_become_what_transformers_makes_of_them() -> None:
    for text in TEXTS:
        assert clean_up(text) == PreTrainedTokenizerBase.clean_up_tokenization(None, text)  # type: ignore[arg-type]


def test_what_is_certain_stays_whatever_comes() -> None:
    for text in TEXTS:
        cleaned = clean_up(text)
        for length in range(len(text)):
            assert cleaned.startswith(clean_up(certain_part(text[:length]))), (text, length)


@pytest.mark.parametrize(
    ("text", "certain"),
    [("it is", "it is"), ("it is ", "it is"), ("it is n", "it is"), ("it is nt", "it is nt"), ("a  '", "a"), ("", "")],
)
def test_no_more_is_held_back_than_may_change(text: str, certain: str) -> None:
    assert certain_part(text) == certain
