"""Which bytes belong together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neoxrun.download.part import FileVersion


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"length": 9}, False),
        ({"length": None}, True),
        ({"length": None, "etag": None, "last_modified": None}, False),
        ({"etag": '"b"'}, False),
        ({"etag": '"b"', "sha256": "0"}, False),
        ({"etag": None}, True),
        ({"etag": None, "last_modified": "later"}, False),
        ({"etag": None, "last_modified": None}, False),
        ({"etag": None, "last_modified": None, "sha256": "0"}, True),
        ({"url": "http://b", "etag": '"b"', "last_modified": "later", "sha256": "0"}, True),
        ({"url": "http://b", "etag": '"b"'}, False),
        ({"url": "http://b", "length": 9, "sha256": "0"}, False),
    ],
)
def test_which_bytes_may_follow_which(changes: dict, same: bool) -> None:
    first = FileVersion("http://a", 10, '"a"', "then", changes.get("sha256"))
    assert first.is_same(replace(first, **changes)) is same
