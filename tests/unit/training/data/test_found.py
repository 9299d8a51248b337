"""What is noted of the files of a run tells changed ones from those that were trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

import neoxrun.training.data.found
from neoxrun.config.training import DataConfig
from neoxrun.errors import DataError
from neoxrun.training.data.found import found_files
from neoxrun.training.data.indexed import with_ending
from neoxrun.training.options import DataFile
from support.training_data import prepare, write_packed, write_rows


def found(data: DataConfig, cache: Path) -> tuple[tuple[DataFile, ...], tuple[DataFile, ...]]:
    return found_files(data, prepare(data, cache))


def test_texts_have_the_digest_of_their_cache(tmp_path: Path) -> None:
    data = DataConfig((write_rows(tmp_path / "a.jsonl", [{"text": "x = 1"}, {"text": "y"}]),))
    ((first,), none) = found(data, tmp_path / "cache")
    assert (first.name, first.documents, none) == (str(tmp_path / "a.jsonl"), 2, ())
    assert found(data, tmp_path / "another cache") == ((first,), ())
    write_rows(tmp_path / "a.jsonl", [{"text": "x = 2"}, {"text": "y"}])
    ((second,), _) = found(data, tmp_path / "cache")
    assert (second.documents, second.tokens) == (first.documents, first.tokens)
    assert second.digest != first.digest


def test_packed_data_are_told_by_their_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataConfig((write_packed(tmp_path / "a", [[1, 2, 3], [4, 5]]),))

    def digest() -> str:
        return found(data, tmp_path)[0][0].digest

    assert found(data, tmp_path)[0] == (DataFile(str(tmp_path / "a"), 2, 5, digest()),)
    before = [digest()]
    for documents in ([[1, 2, 3], [4, 6]], [[1, 2], [3, 4, 5]]):
        write_packed(tmp_path / "a", documents)
        before.append(digest())
    with with_ending(tmp_path / "a", ".bin").open("ab") as file:
        file.write(bytes(2))
    before.append(digest())
    assert len(set(before)) == 4
    monkeypatch.setattr(neoxrun.training.data.found, "_BLOCK", 3)
    monkeypatch.setattr(neoxrun.training.data.found, "_BLOCKS", 4)
    whole = digest()
    with with_ending(tmp_path / "a", ".bin").open("r+b") as file:
        file.seek(8)
        file.write(b"x")
    assert digest() != whole, "blocks that follow one another leave nothing out"


def test_a_split_has_the_whole_files(tmp_path: Path) -> None:
    packed = write_packed(tmp_path / "a", [[1, 2, 3], [4, 5]])
    train, valid = found(DataConfig((packed,), split=(1, 1, 0)), tmp_path)
    assert [(one.documents, one.tokens) for one in train] == [(2, 5)]
    assert valid == ()
    texts = write_rows(tmp_path / "b.jsonl", [{"text": "x"}])
    train, valid = found(DataConfig((packed, texts), valid=(texts,), weights=(1, 2)), tmp_path / "cache")
    assert [one.name for one in train] == [str(packed), str(texts)]
    assert valid == train[1:]


def test_packed_data_that_are_gone(tmp_path: Path) -> None:
    data = DataConfig((write_packed(tmp_path / "a", [[1, 2, 3], [4, 5]]),))
    prepared = prepare(data, tmp_path)
    with_ending(tmp_path / "a", ".bin").unlink()
    with pytest.raises(DataError, match="No such file") as caught:
        found_files(data, prepared)
    assert (caught.value.code, caught.value.where) == ("unreadable_file", str(tmp_path / "a.bin"))
