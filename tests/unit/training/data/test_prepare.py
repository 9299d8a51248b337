"""What a run's files have, and what is refused before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from neoxrun.config.training import DataConfig
from neoxrun.errors import DataError
from neoxrun.training.data.build import build_rows
from support.training_data import VOCABULARY, prepare, write_packed, write_rows

DOCUMENTS = [[number] * (number + 1) for number in range(1, 11)]  # 65 tokens


def test_documents_tokens_and_rows(tmp_path: Path) -> None:
    prefix = write_packed(tmp_path / "a", [*DOCUMENTS, [3]])
    data = DataConfig((prefix,), seq_length=5)
    found = prepare(data, tmp_path)
    assert (found.documents, found.tokens, found.eod) == (11, 66, 0)
    assert (found.rows_of_an_epoch(data), found.valid_rows(data)) == (13, 0)
    alone = DataConfig((prefix,), seq_length=5, packed=False)
    assert prepare(alone, tmp_path).rows_of_an_epoch(alone) == 10, "one token alone is no row"
    long = DataConfig((prefix,), seq_length=1000)
    assert prepare(long, tmp_path).rows_of_an_epoch(long) == 1


def test_documents_of_which_nothing_is_learned_are_no_rows(tmp_path: Path) -> None:
    short, long = {"prompt": "a", "completion": "b"}, {"prompt": "a b c d e f g h i j", "completion": "k"}
    texts = write_rows(tmp_path / "a.jsonl", [short, long, {"text": "x y z"}, long, short, long])
    data = DataConfig((write_packed(tmp_path / "b", DOCUMENTS), texts), (texts,), seq_length=4, packed=False)
    found = prepare(data, tmp_path / "cache")
    assert (found.rows_of_an_epoch(data), found.valid_rows(data)) == (13, 3)
    assert found.valid[0].alone(5).tolist() == [0, 2, 4]
    assert found.valid[0].part(range(1, 5)).alone(5).tolist() == [2, 4]
    assert found.valid[0].alone(100).tolist() == [0, 1, 2, 3, 4, 5]
    none = DataConfig((write_rows(tmp_path / "c.jsonl", [long]),), seq_length=4, packed=False)
    with pytest.raises(DataError, match=r"in no document of .*c\.jsonl anything is learned within 5 tokens"):
        prepare(none, tmp_path / "cache")


def test_a_split_divides_the_documents(tmp_path: Path) -> None:
    data = DataConfig((write_packed(tmp_path / "a", DOCUMENTS),), split=(80, 20, 0), seq_length=4)
    found = prepare(data, tmp_path)
    assert [corpus.documents for corpus in (*found.train, *found.valid)] == [range(8), range(8, 10)]
    assert found.documents == 8
    assert found.valid_rows(data) == (10 + 11 - 1) // 4
    assert prepare(DataConfig(data.train, split=(1, 0, 0)), tmp_path).valid == ()


def test_files_are_shuffled_together_or_blended(tmp_path: Path) -> None:
    packed = write_packed(tmp_path / "a", DOCUMENTS)
    texts = write_rows(tmp_path / "b.jsonl", [{"text": "x = 1"}])
    together = prepare(DataConfig((packed, texts), valid=(texts,)), tmp_path / "cache")
    assert [len(corpus.documents) for corpus in (*together.train, *together.valid)] == [11, 1]
    blended = prepare(DataConfig((packed, texts), weights=(1, 3)), tmp_path / "cache")
    assert [len(corpus.documents) for corpus in blended.train] == [10, 1]
    own = prepare(DataConfig((packed,), (texts,), split=(80, 20, 0)), tmp_path / "cache")
    assert [len(corpus.documents) for corpus in (*own.train, *own.valid)] == [8, 1], "evaluated is what was named"


@pytest.mark.parametrize("how", ["packed", "blended", "alone"])
def test_the_memory_that_an_order_of_rows_needs(how: str, tmp_path: Path) -> None:
    """Against what numpy asks for."""
    first, second = (write_packed(tmp_path / name, DOCUMENTS * 40) for name in "ab")
    weights = (1, 3) if how == "blended" else None
    data = DataConfig((first, second), weights=weights, seq_length=8, packed=how != "alone")
    rows = 200_000 if how == "blended" else 2_000_000
    prepared = prepare(data, tmp_path)
    tracemalloc.start()
    try:
        build_rows(data, prepared, VOCABULARY, rows, 0)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.7 < most / prepared.order_bytes(data, rows) < 1.1  # one corpus after the other needs its most


def test_an_empty_file_among_others_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    found = prepare(DataConfig((tmp_path / "empty.jsonl", write_packed(tmp_path / "a", DOCUMENTS))), tmp_path / "cache")
    assert found.documents == 10


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n'])
def test_files_without_documents(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"no documents in .*a\.jsonl") as caught:
        prepare(DataConfig((tmp_path / "a.jsonl",)), tmp_path / "cache")
    assert caught.value.code == "no_documents"


def test_documents_of_one_token(tmp_path: Path) -> None:
    prefix = write_packed(tmp_path / "a", [[1], [], [2]])
    for packed in (True, False):
        with pytest.raises(DataError, match=r"no document in .* more than one token") as caught:
            prepare(DataConfig((prefix,), packed=packed), tmp_path / "cache")
        assert caught.value.code == "no_tokens"


def test_a_split_that_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no documents") as caught:
        prepare(DataConfig((write_packed(tmp_path / "a", DOCUMENTS),), split=(0, 1, 0)), tmp_path / "cache")
    assert caught.value.code == "no_documents"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "a.jsonl", tmp_path / "a.bin", tmp_path / "a"):
        with pytest.raises(DataError, match=r"does not exist") as caught:
            prepare(DataConfig((path,)), tmp_path / "cache")
        assert caught.value.code == "missing_file"


def test_neither_torch_nor_megatron_is_needed() -> None:
    program = """
import sys
import neoxrun.training.data.prepare
print(*sorted({name.split(".")[0] for name in sys.modules} & {"torch", "megatron", "transformers"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
