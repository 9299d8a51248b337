"""Names from elsewhere: none leaves its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.download.remote import corrupt_path, part_path, safe_name, state_path
from neoxrun.errors import NetworkError

UNSAFE = [
    "",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "./x",
    "a//b",
    "a/",
    "a\\b",
    "..\\x",
    "C:x",
    "c:/x",
    "a\0b",
    "a\nb",
    "a\x1b[2Jb",
    "a\u202eb",
    "a\u2028b",
    "a\ud800b",
    "x" * 201,
    "\u00e9" * 101,
    "a/" * 500 + "b",
    ".x.part",
    ".x.part.json",
    ".neoxrun.lock",
    "x.corrupt",
    "x.corrupt/y",
    "neoxrun.manifest.json",
]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(NetworkError) as caught:
        safe_name(name)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "name", ["a", "a/b.pt", ".gitattributes", "x.part", "a b", "..a", "a..", "\u00fc/\u6f22", "x" * 200]
)
def test_ordinary_names_pass(name: str) -> None:
    assert safe_name(name) == name


@given(st.text(st.sampled_from("ab./\\:\0\n\u202e~"), max_size=12) | st.text(max_size=30))
def test_a_name_that_passes_stays_inside(name: str) -> None:
    try:
        safe_name(name)
    except NetworkError:
        return
    folder = Path("/target/folder")
    path = folder / name
    assert os.path.normpath(path) == str(path)
    assert folder in path.parents
    assert name.isprintable()
    assert len({path, part_path(path), state_path(path), corrupt_path(path)}) == 4
    for ours in (part_path(path), state_path(path), corrupt_path(path)):
        with pytest.raises(NetworkError):
            safe_name(ours.name)
