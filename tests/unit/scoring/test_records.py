"""What a record says of words and tokens."""

from __future__ import annotations

import pytest

from neoxrun.scoring.documents import Document
from neoxrun.scoring.records import RecordMaker, TokenizedDocument
from support.tiny_models import demo_tokenizer

TOKENIZER = demo_tokenizer()
TEXT = " import os.\n\nx = 'é 🎉' "


def scored(text: str) -> TokenizedDocument:
    [(ids, starts)] = TOKENIZER.encode_with_starts([text])
    logprobs = [-(index + 1) / 3 for index in range(len(ids))]
    return TokenizedDocument(Document(0, text, "a:1"), ids, starts, logprobs)


def test_words_have_the_tokens_that_begin_in_them() -> None:
    document = scored(TEXT)
    record = RecordMaker(TOKENIZER.spell, level="word", top=False, run="r", weights=None).record(document)
    assert record["word_texts"] == ["", "import", "os.", "x", "=", "'é", "🎉'", ""]
    assert len(record["word_texts"]) == record["words"]
    assert record["word_logprobs"][0] == 0, "nothing begins before the white space"
    assert sum(record["word_logprobs"]) == pytest.approx(sum(document.logprobs), abs=1e-5)
    ends = TEXT.index("\n")
    before = [value for value, start in zip(document.logprobs, document.starts, strict=True) if start < ends]
    assert sum(record["word_logprobs"][:3]) == pytest.approx(sum(before), abs=1e-5)
    assert "token_ids" not in record


def test_tokens_are_spelled_out() -> None:
    record = RecordMaker(TOKENIZER.spell, level="token", top=False, run="r", weights="random").record(scored("x = 1"))
    assert "".join(record["token_texts"]) == "x = 1"
    assert record["token_starts"][0] == 0
    assert record["weights"] == "random"
    assert record["run"] == "r"


def test_an_empty_document_has_the_same_fields() -> None:
    maker = RecordMaker(TOKENIZER.spell, level="token", top=True, run="r", weights=None)
    empty = maker.record(TokenizedDocument(Document("a", "", "a:1"), [], []))
    assert empty.keys() == maker.record(scored("x")).keys()
    assert (empty["tokens"], empty["words"], empty["logprob"], empty["perplexity"]) == (0, 0, 0, None)
