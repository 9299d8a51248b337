"""What can go wrong with a request, and whether the same address is worth another try."""

from __future__ import annotations

import email.utils
import re
import ssl
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from urllib3 import exceptions as low

from neoxrun.terminal.words import printable

HTTPError = low.HTTPError
"""The base of urllib3's exceptions."""

_PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_MEANINGS = {
    401: "a login or token is needed, or the one given is not accepted",
    403: "access is refused",
    404: "there is no such file",
    407: "the proxy requires a login",
    410: "the file is gone",
    429: "too many requests",
}
_HINTS = {
    401: "Log in (for the Hugging Face hub: `hf auth login`, or HF_TOKEN), and accept the licence if there is one.",
    403: "The server, or a proxy on the way, does not let you have this file: log in, or accept the licence.",
    407: "Put the login into the proxy's address: https_proxy=http://USER:PASSWORD@HOST:PORT.",
}


class Stopped(Exception):
    """The download was told to stop."""


class Trouble(Exception):
    """A request that failed.

    Attributes:
        again: the same address is worth another try.
        after: seconds that the server asked to wait.
        reached: a server responded; False if there was no connection.
        lasting: another try will most likely fail in the same way; a few are enough.
        hint: what the user can do about it.
    """

    def __init__(
        self,
        reason: str,
        *,
        again: bool,
        after: float | None = None,
        reached: bool = True,
        lasting: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.after = after
        self.reached = reached
        self.lasting = lasting
        self.hint = hint


def status_trouble(status: int, phrase: str, retry_after: str | None, longest_wait: float) -> Trouble:
    """What a response other than the file means.

    Args:
        status: of HTTP.
        phrase: the server's own words for it.
        retry_after: the header of that name.
        longest_wait: seconds; a server that asks for a longer wait is not asked again.
    """
    meaning = _MEANINGS.get(status) or printable(phrase)
    reason = f"the server responds with status {status}" + (f" ({meaning})" if meaning else "")
    after = _retry_after(retry_after)
    if status in _PASSING and after is not None and after > longest_wait:
        hint = "Run the same command again after that time; what has arrived is kept."
        return Trouble(f"{reason} and asks to wait {after:.0f} s", again=False, hint=hint)
    return Trouble(reason, again=status in _PASSING, after=after, hint=_HINTS.get(status))


def exception_trouble(url: str, error: Exception) -> Trouble:
    """What an exception of the underlying libraries means."""
    causes = list(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    host = printable(urlsplit(url).hostname or "the server")
    if caused_by(ssl.SSLCertVerificationError):
        return Trouble(
            f"the certificate of {host} is not trusted",
            again=False,
            hint="Behind a proxy with its own certificates, name them with --ca-bundle FILE.",
        )
    if caused_by(low.ProxyError):
        return Trouble(
            "the proxy cannot be used",
            again=True,
            reached=False,
            hint="Check the environment variables http_proxy, https_proxy and no_proxy.",
        )
    if caused_by(low.NameResolutionError):
        hint = "Check the network connection. Behind a proxy, set https_proxy."
        return Trouble(f"the host {host} is not known", again=True, reached=False, hint=hint)
    if caused_by(low.ReadTimeoutError):
        return Trouble("the connection stalled: no more bytes arrived", again=True)
    if caused_by(ConnectionRefusedError):
        return Trouble(f"{host} refuses connections", again=True, reached=False)
    if caused_by(low.NewConnectionError):
        hint = "Check the network connection."
        return Trouble(f"{host} cannot be reached", again=True, reached=False, hint=hint)
    if caused_by(low.ConnectTimeoutError):
        return Trouble(f"{host} does not respond", again=True, reached=False)
    if caused_by(low.LocationParseError):
        return Trouble("the address is malformed", again=False)
    return Trouble("the connection broke", again=True)


def web_page_trouble() -> Trouble:
    """A web page arrived in place of a file."""
    return Trouble(
        "the server sent a web page instead of the file",
        again=True,
        lasting=True,
        hint="It may be the login page of the network or a notice of the server: open the address in a browser. "
        "--mirror names another source.",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those within it: requests wraps urllib3's, which wrap the system's."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
        queue += [item for item in inner if isinstance(item, BaseException)]


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds a number of seconds or a date."""
    if value is None:
        return None
    seconds = whole_number(value)
    if seconds is not None:
        return float(seconds)
    try:
        date = email.utils.parsedate_to_datetime(value)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def whole_number(text: str | None) -> int | None:
    """The number in a header; None if it holds none."""
    text = (text or "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
