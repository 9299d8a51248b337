"""Which numbers of rows a model's vocabulary may have for a tokenizer of 500 entries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from neoxrun.engine.vocabulary import check_vocabulary
from neoxrun.errors import CheckpointError
from support.checkpoints import tiny


def check(rows: int) -> None:
    settings: Any = SimpleNamespace(model=tiny(), tokenizer=SimpleNamespace(vocab_file="tokenizer.json"))
    tokenizer: Any = SimpleNamespace(trained_size=490, vocab_size=500)
    check_vocabulary(settings, tokenizer, rows, source_tp=1)


@pytest.mark.parametrize("rows", [490, 500, 512, 1523])
def test_padding_and_tokens_added_later_are_right(rows: int) -> None:
    check(rows)


@pytest.mark.parametrize("rows", [489, 1524])
def test_another_models_tokenizer_is_refused(rows: int) -> None:
    with pytest.raises(CheckpointError) as caught:
        check(rows)
    assert caught.value.code == "mismatched_tokenizer"
