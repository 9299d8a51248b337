"""JSON files of a model's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.config.json_file import read_json_object
from neoxrun.errors import CheckpointError, DataError

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize("error_class", [CheckpointError, DataError])
def test_a_byte_order_mark_is_passed_over(error_class: type[CheckpointError | DataError], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": "ä"}', encoding="utf-8-sig")
    assert read_json_object(path, error_class) == {"a": "ä"}


@pytest.mark.parametrize(
    ("content", "says", "code"),
    [
        (LFS.encode(), "git lfs pull", "damaged_file"),
        (b"[1]", "not hold a JSON object", "damaged_file"),
        (b"{", "cannot read config.json", "unreadable_checkpoint"),
        (b"\xff", "cannot read config.json", "unreadable_checkpoint"),
        (b"[" * 100_000, "cannot read config.json", "unreadable_checkpoint"),
    ],
)
def test_what_is_no_object_is_said(content: bytes, says: str, code: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    for error_class, expected in ((CheckpointError, code), (DataError, "bad_tokenizer")):
        with pytest.raises(error_class) as caught:
            read_json_object(path, error_class)
        assert says in caught.value.render()
        assert (caught.value.code, caught.value.where) == (expected, str(path))


def test_a_missing_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read none\.json"):
        read_json_object(tmp_path / "none.json", CheckpointError)
