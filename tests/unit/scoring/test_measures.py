"""Words as lm-eval counts them, and what a log-probability comes to."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.scoring.measures import Totals, measures, word_starts


@given(st.text(alphabet="ab \n\t\u2028\u00a0.", max_size=20))
def test_words_are_those_of_lm_eval(text: str) -> None:
    starts = word_starts(text)
    words = [text[start:end].strip() for start, end in pairwise([*starts, len(text)])]
    assert words == re.split(r"\s+", text)


def test_measures_are_per_token_word_and_byte() -> None:
    assert measures(-8 * math.log(2), tokens=4, words=2, size=16) == pytest.approx(
        {"bits": 8, "bits_per_byte": 0.5, "perplexity": 4, "word_perplexity": 16, "byte_perplexity": 2**0.5}
    )
    nothing = measures(0.0, tokens=0, words=0, size=0)
    certain = measures(0.0, tokens=1, words=1, size=1)
    assert [str(values["bits"]) for values in (nothing, certain)] == ["0.0"] * 2, "not -0.0"
    assert str(certain["bits_per_byte"]) == "0.0"
    assert [nothing[name] for name in ("bits_per_byte", "perplexity", "word_perplexity")] == [None] * 3
    assert measures(-1e6, tokens=1, words=1, size=10**6)["word_perplexity"] is None, "too large for a float"


def test_totals_divide_sums() -> None:
    totals = Totals()
    totals.add({"tokens": 2, "words": 1, "bytes": 4, "logprob": -2.0})
    totals.add({"tokens": 0, "words": 0, "bytes": 0, "logprob": 0.0})
    totals.add({"tokens": 6, "words": 3, "bytes": 12, "logprob": -6.0})
    found = totals.to_dict()
    assert (found["documents"], found["empty_documents"], found["tokens"]) == (3, 1, 8)
    assert found["perplexity"] == pytest.approx(math.e)
    assert found["word_perplexity"] == pytest.approx(math.e**2)
    assert "documents             3, 1 empty\n" in totals.to_table()
