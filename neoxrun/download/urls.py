"""Addresses to download from: which ones are allowed, and how messages show them."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from neoxrun.errors import NetworkError, UsageError
from neoxrun.terminal.words import printable


def shown_url(url: str) -> str:
    """A URL for messages and manifests, without user, password and query (signatures are in queries)."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return printable(urlunsplit((parts.scheme, host, parts.path, "", "")))
    except ValueError:
        return printable(url.partition("?")[0].rpartition("@")[2])


def origin(url: str) -> str:
    """``scheme://host[:port]`` of a URL: the server that a credential is for."""
    parts = urlsplit(url)
    return f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2].lower()}"


def mirror_url(url: str) -> str:
    """The URL of a folder, with a slash at its end.

    Raises:
        UsageError: it is not an http or https URL.
    """
    problem = url_problem(url)
    if problem:
        raise UsageError(
            f"{shown_url(url)!r} is not a mirror: {problem}",
            code="invalid_value",
            hint="For example: https://host/folder/",
        )
    return url.rstrip("/") + "/"


def url_problem(url: str) -> str | None:
    """What is wrong with a URL to download from; None if nothing is."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https") or not host:
        return "it does not begin with https:// or http:// and a host"
    if parts.query or parts.fragment or any(letter.isspace() for letter in url):
        return "it has a query, a fragment or a space"
    return None


def check_scheme(url: str) -> None:
    """Refuse everything but http and https.

    Raises:
        NetworkError: with the address, without what may be secret in it.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        right = False
    if not right:
        raise NetworkError(
            f"not an address to download from: {shown_url(url)}", code="bad_address", hint="Give an http or https URL."
        )
