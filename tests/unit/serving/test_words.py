"""Messages of the whole program, in the words of a Python program."""

from __future__ import annotations

import pytest

from neoxrun.config.precisions import nonfinite_hint
from neoxrun.errors import RankError
from neoxrun.serving.words import error_in_python, in_python


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("cannot be divided into --tp 3 equal parts", "cannot be divided into tp=3 equal parts"),
        ("--tp can be 1, 2, 4 for this model.", "tp can be 1, 2, 4 for this model."),
        ("as --pp 2 is given without --tp", "as pp=2 is given without tp"),
        ("try --dtype bf16 or --dtype fp32. If", "try dtype='bf16' or dtype='fp32'. If"),
        ("--dtype fp32 is exact", "dtype='fp32' is exact"),
        ("or lower --maximum-tokens, or", "or lower maximum_tokens, or"),
        ("are random (--random-weights): the", "are random (random_weights): the"),
        ("--device cpu computes without", "device='cpu' computes without"),
        ("Name it with --tokenizer FILE.", "Name it with tokenizer=FILE."),
        ("or --set iteration=5, or", "or overrides=['iteration=5'], or"),
        ("with --set 'rope_scaling={a: 1}'.", "with overrides=['rope_scaling={a: 1}']."),
        ("--set needs KEY=VALUE", "overrides needs KEY=VALUE"),
        ("is --tp 2 --pp 1 --replicas 1.", "is tp=2 pp=1."),
        ("fewer ranks (--tp, --pp, --replicas)", "fewer ranks (tp, pp)"),
        ("`neoxrun download X --to DIR` gets it", "`neoxrun download X --to DIR` gets it"),
        ("`neoxrun generate X --tp 2 --set a=b`", "`neoxrun generate X --tp 2 --set a=b`"),
        ("a--tp 2 and --tpx stay", "a--tp 2 and --tpx stay"),
    ],
)
def test_words(text: str, python: str) -> None:
    assert in_python(text) == python


def test_an_error_keeps_all_but_its_words() -> None:
    error = RankError("no --tp", code="nonfinite_output", where="--tokenizer", hint=nonfinite_hint("fp16"))
    assert error_in_python(error) is error
    assert (error.message, error.where, error.code) == ("no tp", "tokenizer", "nonfinite_output")
    assert "try dtype='bf16' or dtype='fp32'" in str(error)
    assert error_in_python(RankError("plain", code="rank_died")).hint is None
