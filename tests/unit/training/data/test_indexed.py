"""The index of packed data: what is read of it, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from neoxrun.errors import DataError
from neoxrun.training.data.indexed import indexed_prefix, read_index, token_type, with_ending
from support.training_data import INT32, UINT16, write_packed

DOCUMENTS = [[5, 6, 7], [], [8], [9, 10]]


@pytest.mark.parametrize("dtype", [UINT16, INT32])
def test_what_is_written_is_read(tmp_path: Path, dtype: np.dtype[np.uint16] | np.dtype[np.int32]) -> None:
    index = read_index(write_packed(tmp_path / "a.b", DOCUMENTS, dtype))
    assert index.sizes.tolist() == [3, 0, 1, 2]
    assert index.item == dtype.itemsize
    assert (index.starts // dtype.itemsize).tolist() == [0, 3, 3, 4]


def test_the_file_is_byte_for_byte_megatrons(tmp_path: Path) -> None:
    """Put together here from the layout that FACTS and Megatron's _IndexWriter give."""
    written = with_ending(write_packed(tmp_path / "a", [[1, 2], [3]]), ".idx").read_bytes()
    assert written == b"MMIDIDX\0\0" + struct.pack("<QBQQ2i2q3q", 1, 8, 2, 3, 2, 1, 0, 4, 0, 1, 2)


def test_data_are_named_with_or_without_an_ending(tmp_path: Path) -> None:
    prefix = write_packed(tmp_path / "v1.2", [[1]])
    assert [indexed_prefix(tmp_path / name) for name in ("v1.2", "v1.2.bin", "v1.2.idx")] == [prefix] * 3
    (tmp_path / "texts").write_text("a")
    (tmp_path / "texts.idx").write_text("a")
    assert indexed_prefix(tmp_path / "texts") is None, "a file by this very name comes first"
    assert indexed_prefix(tmp_path / "none.jsonl") is None


def test_small_vocabularies_are_stored_in_16_bits() -> None:
    assert (token_type(65_499), token_type(65_500)) == (UINT16, INT32)


def damaged(tmp_path: Path, change: object) -> DataError:
    prefix = write_packed(tmp_path / "a", DOCUMENTS)
    path = with_ending(prefix, ".idx")
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError) as caught:
        read_index(prefix)
    assert (caught.value.code, caught.value.where) == ("bad_input", str(path))
    return caught.value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"TNTIDX\0\0" + data[8:], "data_impl lazy or cached"),
        (lambda data: b"{" + data[1:], "not an index"),
        (lambda data: b"", "not an index"),
        (lambda data: data[:20], "cut short"),
        (lambda data: data[:-8], "cut short"),
        (lambda data: data[:9] + struct.pack("<Q", 2) + data[17:], "version 2"),
        (lambda data: data[:17] + b"\x06" + data[18:], "of kind 6"),
        (lambda data: data[:17] + b"\x04" + data[18:], r"a\.bin does not have"),
        (lambda data: data[:34] + struct.pack("<i", -1) + data[38:], r"a\.bin does not have"),
        (lambda data: data[:34] + struct.pack("<i", 7) + data[38:], r"a\.bin does not have"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, change: object, message: str) -> None:
    assert damaged(tmp_path, change).message.count("a.idx") == 1
    with pytest.raises(DataError, match=message):
        read_index(tmp_path / "a")


def test_both_files_are_needed(tmp_path: Path) -> None:
    prefix = write_packed(tmp_path / "a", DOCUMENTS)
    for ending in (".bin", ".idx"):
        kept = with_ending(prefix, ending).read_bytes()
        with_ending(prefix, ending).unlink()
        with pytest.raises(DataError, match=rf"a\{ending} does not exist") as caught:
            read_index(prefix)
        assert caught.value.code == "missing_file"
        with_ending(prefix, ending).write_bytes(kept)
    with_ending(prefix, ".idx").unlink()
    with_ending(prefix, ".idx").mkdir()
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_index(prefix)
    assert caught.value.code == "unreadable_file"
