"""Addresses to download from: which are allowed, and what is not shown of them."""

from __future__ import annotations

import pytest

from neoxrun.download import urls
from neoxrun.download.urls import shown_url
from neoxrun.errors import UsageError


@pytest.mark.parametrize(
    "url", ["host/folder", "ftp://host/", "file:///etc", "https://", "https://host/?a=b", "https://[", "http://a b/"]
)
def test_a_mirror_is_a_web_address(url: str) -> None:
    with pytest.raises(UsageError, match="is not a mirror") as caught:
        urls.mirror_url(url)
    assert caught.value.code == "invalid_value"
    assert urls.mirror_url("http://host:8000/a/b") == "http://host:8000/a/b/"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@h:1/a?b=c#d", "https://h:1/a"),
        ("https://h/a\x1b[31m", "https://h/a\\x1b[31m"),
        ("http://[bad/?secret=1", "http://[bad/"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown
