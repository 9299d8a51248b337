"""The order of rows, against GPT-NeoX's loops written out, and properties that hold for any sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neoxrun.training.data.packing import (
    blend,
    blended_rows,
    epochs_for,
    order_documents,
    pack,
    rows_of,
    split_documents,
)

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=12)
WEIGHTS = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(lambda found: [float(one) for one in found])


def loop_epochs(tokens: int, seq_length: int, rows: int) -> int:
    """_num_epochs."""
    epochs = total = 0
    while True:
        epochs, total = epochs + 1, total + tokens
        if (total - 1) // seq_length >= rows:
            return epochs


def loop_samples(sizes: list[int], order: list[int], seq_length: int, rows: int) -> list[tuple[int, int]]:
    """_build_sample_idx: the place in ``order`` and the offset at which each row begins, and the last ends."""
    samples = [(0, 0)]
    at = offset = 0
    while len(samples) <= rows:
        remaining = seq_length + 1
        while remaining:
            length = sizes[order[at]] - offset
            remaining -= length
            if remaining <= 0:
                offset += remaining + length - 1
                remaining = 0
            else:
                at, offset = at + 1, 0
        samples.append((at, offset))
    return samples


def loop_blend(weights: list[float], rows: int) -> tuple[list[int], list[int]]:
    """build_blending_indices."""
    current = [0] * len(weights)
    sources, numbers = [], []
    for row in range(rows):
        best, most = 0, weights[0] * max(float(row), 1.0) - current[0]
        for source in range(1, len(weights)):
            error = weights[source] * max(float(row), 1.0) - current[source]
            if error > most:
                best, most = source, error
        sources.append(best)
        numbers.append(current[best])
        current[best] += 1
    return sources, numbers


@given(tokens=st.integers(1, 500), seq_length=st.integers(1, 70), rows=st.integers(0, 40))
def test_epochs_are_gpt_neoxs(tokens: int, seq_length: int, rows: int) -> None:
    assume(tokens > 1 or rows < 8)
    epochs = epochs_for(rows, tokens, seq_length)
    assert epochs == loop_epochs(tokens, seq_length, rows)
    assert rows_of(epochs * tokens, seq_length) >= rows


@given(sizes=SIZES, rows=st.integers(1, 20), seq_length=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_rows_begin_and_end_where_gpt_neoxs_do(sizes: list[int], rows: int, seq_length: int, seed: int) -> None:
    assume(sum(sizes) > 1)
    packing = pack(np.array(sizes, np.int32), range(len(sizes)), rows, seq_length, seed)
    order = packing.documents.tolist()
    count = len(packing.shuffled)
    assert count >= rows
    assert sorted(packing.shuffled.tolist()) == list(range(count))
    samples = loop_samples(sizes, order, seq_length, count)
    begins = np.concatenate([[0], packing.ends]).tolist()
    assert [begins[at] + offset for at, offset in samples] == [row * seq_length for row in range(count + 1)]


@given(sizes=SIZES, rows=st.integers(1, 20), seq_length=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_rows_are_the_stream_of_the_documents(sizes: list[int], rows: int, seq_length: int, seed: int) -> None:
    assume(sum(sizes) > 1)
    packing = pack(np.array(sizes, np.int32), range(len(sizes)), rows, seq_length, seed)
    order = packing.documents.tolist()
    epochs = len(order) // len(sizes)
    assert sorted(order) == sorted([*range(len(sizes))] * epochs), "every document once an epoch"
    stream = [(document, at) for document in order for at in range(sizes[document])]
    for row, begins in enumerate(packing.shuffled.tolist()):
        found = [(one, at) for one, begin, end in packing.pieces(row) for at in range(begin, end)]
        assert found == stream[begins * seq_length :][: seq_length + 1]
        assert len(found) == seq_length + 1


def test_a_part_of_the_documents_is_packed() -> None:
    packing = pack(np.array([9, 2, 3, 9], np.int32), range(1, 3), 2, 2, 0)
    assert set(packing.documents.tolist()) == {1, 2}
    assert len(packing.shuffled) == (5 - 1) // 2


@given(split=st.lists(st.integers(0, 1000), min_size=3, max_size=3), documents=st.integers(0, 5000))
def test_splits_have_every_document_once(split: list[int], documents: int) -> None:
    assume(sum(split) > 0)
    parts = split_documents(split, documents)
    assert parts[0].start == 0
    assert parts[2].stop == documents
    assert [part.stop for part in parts[:2]] == [part.start for part in parts[1:]]


@pytest.mark.parametrize(
    ("split", "documents", "bounds"),
    [((50, 50, 0), 44, (22, 44)), ((969, 30, 1), 1000, (969, 999)), ((1, 1, 1), 2, (0, 1)), ((0.5, 0.5, 0), 5, (3, 5))],
)
def test_splits_are_gpt_neoxs(split: tuple[float, float, float], documents: int, bounds: tuple[int, int]) -> None:
    """Computed by its get_train_valid_test_split_: with (1, 1, 1) each part is rounded to 1 of 2, the excess to 1."""
    parts = split_documents(split, documents)
    assert (parts[0].stop, parts[1].stop) == bounds


@given(weights=WEIGHTS, rows=st.integers(0, 60))
def test_blending_is_gpt_neoxs(weights: list[float], rows: int) -> None:
    assume(sum(weights) > 0)
    normal = np.array([weight / sum(weights) for weight in weights])
    sources, numbers = blend(weights, rows)
    assert (sources.tolist(), numbers.tolist()) == loop_blend((normal / normal.sum()).tolist(), rows)


def test_blended_data_have_half_a_per_cent_to_spare() -> None:
    assert blended_rows([1.0], 80) == [81]
    assert blended_rows([3.0, 1.0], 1000) == [754, 252]


@given(count=st.integers(1, 9), rows=st.integers(0, 30), seed=st.integers(0, 2**31))
def test_documents_alone_come_once_an_epoch(count: int, rows: int, seed: int) -> None:
    order = order_documents(range(count), rows, seed).tolist()
    assert len(order) == rows
    for begin in range(0, rows - count + 1, count):
        assert sorted(order[begin : begin + count]) == list(range(count))
