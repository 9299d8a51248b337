"""The rows of a run: packed, blended or one document each, with what is learned of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from neoxrun.config.training import DataConfig
from neoxrun.errors import DataError
from neoxrun.training.data.build import build_rows
from neoxrun.training.data.packing import blend, pack
from neoxrun.training.rows import Rows
from support.tiny_models import demo_tokenizer
from support.training_data import VOCABULARY, ids_of, learned_of, prepare, write_packed, write_rows

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def rows_of(
    tmp_path: Path, *files: Path, count: int = 4, valid_count: int = 0, **options: Any
) -> tuple[Rows, Rows | None]:
    data = DataConfig(files, **options)
    return build_rows(data, prepare(data, tmp_path / "cache"), VOCABULARY, count, valid_count)


def train_rows(tmp_path: Path, *files: Path, **options: Any) -> Rows:
    return rows_of(tmp_path, *files, **options)[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=LENGTHS, count=st.integers(1, 12), seq_length=st.integers(1, 8), masked=st.booleans())
def test_packed_rows_are_cut_from_the_stream(
    tmp_path: Path, lengths: list[int], count: int, seq_length: int, masked: bool
) -> None:
    assume(max(lengths) > 1)
    documents = [[number * 10 + at + 1 for at in range(length - 1)] + [0] for number, length in enumerate(lengths)]
    prefix = write_packed(tmp_path / "a", documents)
    rows = train_rows(tmp_path, prefix, count=count, seq_length=seq_length, seed=3, eod_mask_loss=masked)
    packing = pack(np.array(lengths, np.int32), range(len(lengths)), count, seq_length, 3)
    stream = [token for document in packing.documents.tolist() for token in documents[document]]
    assert len(rows) == count
    assert ids_of(rows) == [
        stream[begin * seq_length :][: seq_length + 1] for begin in packing.shuffled[:count].tolist()
    ]
    assert learned_of(rows) == [[not (masked and token == 0) for token in ids[:-1]] for ids in ids_of(rows)]
    assert all(rows[number].ids.dtype == np.int64 and rows[number].learned.dtype == np.bool_ for number in range(count))


def test_rows_end(tmp_path: Path) -> None:
    prefix = write_packed(tmp_path / "a", [[1, 2, 3, 4, 5, 6, 7, 8]])
    for packed in (True, False):
        rows = train_rows(tmp_path, prefix, count=2, seq_length=2, packed=packed)
        assert len(list(rows)) == 2  # type: ignore[call-overload]


def test_what_is_learned_is_packed_with_the_tokens(tmp_path: Path) -> None:
    pairs = [(f"{number} + {number} =", f" {2 * number}") for number in range(1, 9)]
    path = write_rows(tmp_path / "a.jsonl", [{"prompt": prompt, "completion": answer} for prompt, answer in pairs])
    rows = train_rows(tmp_path, path, count=30, seq_length=8)
    tokenizer = demo_tokenizer()
    ends = {(*tokenizer.encode(answer), 0) for _, answer in pairs}
    stretches = set()
    for row in (rows[number] for number in range(30)):
        marks = row.learned.tolist()
        begins = [at for at in range(1, 8) if marks[at] and not marks[at - 1]]
        for begin in begins:
            end = next((at for at in range(begin, 8) if not marks[at]), None)
            if end is not None:
                stretches.add(tuple(row.ids[begin + 1 : end + 1].tolist()))
    assert stretches
    assert stretches <= ends


def test_one_document_a_row(tmp_path: Path) -> None:
    prefix = write_packed(tmp_path / "a", [[1, 2, 3, 4, 5, 6], [7, 8], [9], [10, 11, 12, 13]])
    rows = train_rows(tmp_path, prefix, count=6, seq_length=3, packed=False)
    found = dict(zip(map(tuple, ids_of(rows)), learned_of(rows), strict=True))
    assert found == {
        (1, 2, 3, 4): [True, True, True],
        (7, 8, 0, 0): [True, False, False],
        (10, 11, 12, 13): [True, True, True],
    }
    assert [sorted(ids_of(rows)[begin : begin + 3]) for begin in (0, 3)] == [sorted(map(list, found))] * 2


def test_documents_of_which_nothing_is_learned_are_no_rows(tmp_path: Path) -> None:
    short, long = {"prompt": "a", "completion": "b"}, {"prompt": "a b c d e f g h i j", "completion": "k"}
    path = write_rows(tmp_path / "a.jsonl", [short, long])
    rows = train_rows(tmp_path, path, count=4, seq_length=4, packed=False)
    assert len({tuple(ids) for ids in ids_of(rows)}) == 1
    assert all(map(any, learned_of(rows)))
    with pytest.raises(DataError, match=r"in no document of .*b\.jsonl") as caught:
        train_rows(tmp_path, write_rows(tmp_path / "b.jsonl", [long]), seq_length=4, packed=False)
    assert caught.value.code == "no_tokens"


def test_weights_blend_files(tmp_path: Path) -> None:
    files = [write_packed(tmp_path / name, [[token] * 50]) for name, token in (("a", 1), ("b", 2))]
    rows = train_rows(tmp_path, *files, count=40, seq_length=2, weights=(3, 1))
    sources, _ = blend((3, 1), 40)
    assert [ids[0] - 1 for ids in ids_of(rows)] == sources.tolist()
    assert sources.tolist().count(0) == 30


def test_a_single_weight_asks_for_half_a_per_cent_more_rows(tmp_path: Path) -> None:
    """So GPT-NeoX shuffles another epoch in where the rows of those without it are just enough."""
    documents = [[number] * 21 for number in range(1, 6)]
    prefix = write_packed(tmp_path / "a", documents)
    sizes = np.array([21] * 5, np.int32)
    plain = train_rows(tmp_path, prefix, count=52, seq_length=2)
    weighted = train_rows(tmp_path, prefix, count=52, seq_length=2, weights=(1,))
    for rows, needed in ((plain, 52), (weighted, 53)):
        packing = pack(sizes, range(5), needed, 2, 1234)
        stream = [token for document in packing.documents.tolist() for token in documents[document]]
        assert ids_of(rows) == [stream[begin * 2 :][:3] for begin in packing.shuffled[:52].tolist()]
    assert ids_of(plain) != ids_of(weighted)


def test_evaluation_has_rows_of_its_own(tmp_path: Path) -> None:
    prefix = write_packed(tmp_path / "a", [[1] * 9, [2] * 9])
    options = {"seq_length": 3, "split": (1, 1, 0)}
    train, valid = rows_of(tmp_path, prefix, count=9, valid_count=5, **options)
    assert valid is not None
    assert (set(map(tuple, ids_of(train))), set(map(tuple, ids_of(valid)))) == ({(1,) * 4}, {(2,) * 4})
    assert len(valid) == 5
    assert rows_of(tmp_path, prefix, **options)[1] is None
    assert rows_of(tmp_path, prefix, valid_count=5)[1] is None
