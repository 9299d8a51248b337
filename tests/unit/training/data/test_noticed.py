"""What is said of documents before a run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neoxrun.config.training import DataConfig
from neoxrun.training.data.noticed import notices
from support.tiny_models import demo_tokenizer
from support.training_data import prepare, write_packed, write_rows


def noticed(tmp_path: Path, *files: Path, evaluated: bool = True, **options: Any) -> list[str]:
    data = DataConfig(files, **options)
    return notices(data, prepare(data, tmp_path / "cache"), evaluated=evaluated)


def test_documents_that_are_cut_or_left_out(tmp_path: Path) -> None:
    prefix = write_packed(tmp_path / "a", [[1, 2, 3, 4, 5, 6], [7, 8], [9], [10, 11, 12, 13]])
    other = write_packed(tmp_path / "b", [[5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1]])
    options = {"seq_length": 3, "packed": False}
    cut = "1 document cut to 4 tokens (seq_length, and one to predict)"
    left_out = "1 document left out: nothing is learned in 4 tokens"
    assert noticed(tmp_path, prefix, **options) == [cut, left_out]
    both = noticed(tmp_path, prefix, valid=(other,), **options)
    assert both == [cut, left_out, "2 evaluation documents cut to 4 tokens (seq_length, and one to predict)"]
    assert noticed(tmp_path, prefix, valid=(other,), evaluated=False, **options) == [cut, left_out]
    weighted = noticed(tmp_path, prefix, other, weights=(1, 1), **options)
    assert weighted == ["3 documents cut to 4 tokens (seq_length, and one to predict)", left_out]
    assert noticed(tmp_path, prefix, seq_length=3) == []


def test_completions_beyond_a_row_are_left_out(tmp_path: Path) -> None:
    short, long = {"prompt": "a", "completion": "b"}, {"prompt": "a b c d e f g h i j", "completion": "k"}
    path = write_rows(tmp_path / "a.jsonl", [short, long])
    assert "1 document left out: nothing is learned in 5 tokens" in noticed(tmp_path, path, seq_length=4, packed=False)


def test_documents_that_are_evaluated_and_trained_on_are_counted(tmp_path: Path) -> None:
    train = write_packed(tmp_path / "a", [[1, 2], [3, 4], [5, 6, 7]])
    valid = write_packed(tmp_path / "b", [[3, 4], [3, 4], [4, 3], [5, 6]])
    told = "evaluation documents that are also in the training data: 2 of 4; the evaluation loss will be too low"
    assert noticed(tmp_path, train, valid=(valid,)) == [told]
    more = write_packed(tmp_path / "c", [[8, 9], [4, 3]])
    assert noticed(tmp_path, train, more, valid=(valid,)) == [told.replace("2 of 4", "3 of 4")], "in a second file"
    assert noticed(tmp_path, train, valid=(valid,), evaluated=False) == []
    assert noticed(tmp_path, train, split=(2, 1, 0)) == []


def test_texts_and_packed_data_are_compared_by_their_tokens(tmp_path: Path) -> None:
    text = write_rows(tmp_path / "a.jsonl", [{"text": "import os"}])
    packed = write_packed(tmp_path / "b", [[*demo_tokenizer().encode("import os"), 0]])
    assert "also in the training data: 1 of 1" in noticed(tmp_path, packed, valid=(text,))[0]
