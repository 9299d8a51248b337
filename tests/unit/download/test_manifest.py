"""Checksums on disk: what is written is read again, and other people's formats are too."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.config.names import MANIFEST_NAME
from neoxrun.download import manifest
from neoxrun.download.manifest import Manifest, ManifestEntry
from neoxrun.download.remote import Arrival
from neoxrun.errors import DataError

SUM = "ab" * 32

names = st.from_regex(r"[A-Za-z0-9é][\w é.-]{0,20}(/[A-Za-z0-9][\w.-]{0,10})?", fullmatch=True).filter(
    lambda name: not name.endswith(".corrupt") and ".corrupt/" not in name and "\u200d" not in name
)
entries = st.builds(
    ManifestEntry,
    st.none() | st.integers(0, 2**50),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.none() | st.just("https://host/a"),
)


@given(files=st.dictionaries(names, entries, max_size=5), mirrors=st.lists(st.just("https://host/"), max_size=2))
def test_what_is_written_is_read(
    files: dict[str, ManifestEntry], mirrors: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("m")
    one = Manifest(files, "pythia-14m", "EleutherAI/pythia-14m", "https://hub", "0" * 40, tuple(mirrors))
    path = manifest.write_manifest(one, folder)
    assert path == folder / "neoxrun.manifest.json"
    assert manifest.read_folder_manifest(folder) == one
    assert [path.name for path in folder.iterdir()] == [MANIFEST_NAME]


def test_no_manifest_is_none(tmp_path: Path) -> None:
    assert manifest.read_folder_manifest(tmp_path) is None


@pytest.mark.parametrize("options", [[], ["--binary"], ["--tag"]])
def test_what_sha256sum_writes_is_read(options: list[str], tmp_path: Path) -> None:
    files = {"a b.pt": b"one", "sub/c.json": b"two", "ünï.bin": b"three"}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(["sha256sum", *options, *files], cwd=tmp_path, capture_output=True, check=True)
    (tmp_path / "SHA256SUMS").write_bytes(b"\n" + done.stdout)
    found = manifest.read_manifest(tmp_path / "SHA256SUMS")
    assert found.files == {name: ManifestEntry(None, hashlib.sha256(data).hexdigest()) for name, data in files.items()}


def test_names_below_the_working_directory_are_read(tmp_path: Path) -> None:
    path = tmp_path / "sums"
    # `find -type f | xargs sha256sum` in a folder that was downloaded names its manifest too.
    text = f"# made by hand\r\n{SUM.upper()}  ./a/b.pt\r\n{SUM}  ./{MANIFEST_NAME}\n"
    path.write_text(text, encoding="utf-8")
    assert manifest.read_manifest(path).files == {"a/b.pt": ManifestEntry(None, SUM)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("hello\n", "line 1 is not a checksum followed by a name"),
        (f"{SUM}  a\n{SUM[:-1]}  b\n", "line 2 is not"),
        (f"{SUM}  ../a\n", "leads out of the folder"),
        (f"{SUM}  /etc/passwd\n", "absolute"),
        (f"{SUM}  .a.part\n", "reserves such names for itself"),
        (f"{SUM}  a\n{'cd' * 32}  a\n", "names a again, with a different checksum"),
        ("{", "Expecting"),
        ('{"format": 2, "files": {}}', "format is 2"),
        ('{"format": 1}', "files"),
        ('{"format": 1, "files": []}', "cannot be used"),
        ('{"format": 1, "files": {"a": {"sha256": "x"}}}', "64 hexadecimal digits"),
        (json.dumps({"format": 1, "files": {"a": {"sha256": SUM, "size": "1"}}}), "number of bytes"),
        (json.dumps({"format": 1, "files": {"../a": {"sha256": SUM}}}), "leads out of the folder"),
        ('{"format": 1, "model": 3, "files": {}}', "not a string"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sums"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        manifest.read_manifest(path)
    assert caught.value.code == "bad_file"
    assert caught.value.where == str(path)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        manifest.read_manifest(tmp_path / "none")
    assert caught.value.code == "unreadable_file"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a UTF-8 text file") as caught:
        manifest.read_manifest(tmp_path / "binary")
    assert caught.value.code == "bad_file"


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    old = Manifest({"a": ManifestEntry(1, SUM)})
    manifest.write_manifest(old, tmp_path)
    with pytest.raises(DataError) as caught:
        manifest.write_atomically(tmp_path / MANIFEST_NAME / "x", "text")
    assert caught.value.code == "unwritable_file"
    (tmp_path / "taken").mkdir()
    with pytest.raises(DataError) as caught:
        manifest.write_atomically(tmp_path / "taken", "text")
    assert caught.value.code == "unwritable_file"
    assert manifest.read_folder_manifest(tmp_path) == old
    assert {path.name for path in tmp_path.iterdir()} == {MANIFEST_NAME, "taken"}


def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = manifest.write_manifest(Manifest(), tmp_path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert json.loads(path.read_text(encoding="utf-8")) == {"format": 1, "files": {}}


def test_arrivals_keep_where_a_file_came_from(tmp_path: Path) -> None:
    before = Manifest({"a": ManifestEntry(1, SUM, "https://host/a"), "b": ManifestEntry(1, SUM, "https://host/b")})
    there = [Arrival(name, tmp_path / name, 1, sha256, None, 0.0) for name, sha256 in (("a", SUM), ("b", "cd" * 32))]
    new = Arrival("c", tmp_path / "c", 2, SUM, "https://host/c", 1.0)
    assert before.with_arrivals([*there, new]).files == {
        "a": ManifestEntry(1, SUM, "https://host/a"),
        "b": ManifestEntry(1, "cd" * 32, None),
        "c": ManifestEntry(2, SUM, "https://host/c"),
    }
