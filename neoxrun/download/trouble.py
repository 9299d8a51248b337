"""What can go wrong with one request, and whether the same address is worth another try."""

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
"""What urllib3 raises."""

_PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_SAID = {
    401: "a login or token is needed, or the one given is not accepted",
    403: "access is refused",
    404: "there is no such file",
    407: "the proxy wants a login",
    410: "the file is gone",
    429: "too many requests",
}
_HINTS = {
    401: "Log in (for the Hugging Face hub: `hf auth login`, or HF_TOKEN), and accept the licence where there is one.",
    403: "The server, or a proxy on the way, does not give this file to you: log in, or accept the licence.",
    407: "Put the login into the proxy's address: https_proxy=http://USER:PASSWORD@HOST:PORT.",
}


class Stopped(Exception):
    """The download was told to stop."""


class Trouble(Exception):
    """One request that did not bring what it should.

    Attributes:
        again: the same address is worth another try.
        after: seconds that the server asked to wait.
        reached: somebody answered; False where there was no connection.
        lasting: most likely it will be the same again; a few tries are enough.
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


def of_status(status: int, phrase: str, retry_after: str | None, longest_wait: float) -> Trouble:
    """What an answer means that is not the file.

    Args:
        status: of HTTP.
        phrase: the server's own word for it.
        retry_after: the header of that name.
        longest_wait: seconds; a server that asks for more is not asked again.
    """
    said = _SAID.get(status) or printable(phrase)
    reason = f"the server answers {status}" + (f": {said}" if said else "")
    after = _retry_after(retry_after)
    if status in _PASSING and after is not None and after > longest_wait:
        hint = "Give the same command again after that time; what has arrived is kept."
        return Trouble(f"{reason}, and asks to come back in {after:.0f} s", again=False, hint=hint)
    return Trouble(reason, again=status in _PASSING, after=after, hint=_HINTS.get(status))


def of_exception(url: str, error: Exception) -> Trouble:
    """What an exception of the libraries below means."""
    causes = list(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    host = printable(urlsplit(url).hostname or "the server")
    if caused_by(ssl.SSLCertVerificationError):
        return Trouble(
            f"the certificate of {host} is not trusted",
            again=False,
            hint="Behind a proxy that has its own certificates, name them with --ca-bundle FILE.",
        )
    if caused_by(low.ProxyError):
        return Trouble(
            "the proxy cannot be used",
            again=True,
            reached=False,
            hint="See the environment variables http_proxy, https_proxy and no_proxy.",
        )
    if caused_by(low.NameResolutionError):
        hint = "Is there a network? Behind a proxy, set https_proxy."
        return Trouble(f"the host {host} is not known", again=True, reached=False, hint=hint)
    if caused_by(low.ReadTimeoutError):
        return Trouble("it stalled: no byte arrived any more", again=True)
    if caused_by(ConnectionRefusedError):
        return Trouble(f"{host} refuses connections", again=True, reached=False)
    if caused_by(low.NewConnectionError):
        return Trouble(f"there is no way to {host}", again=True, reached=False, hint="Is there a network?")
    if caused_by(low.ConnectTimeoutError):
        return Trouble(f"{host} does not answer", again=True, reached=False)
    if caused_by(low.LocationParseError):
        return Trouble("the address is malformed", again=False)
    return Trouble("the connection broke", again=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those inside it: requests wraps urllib3's, which wrap the system's."""
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
    """Seconds from a Retry-After header: a number of them, or a date."""
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
    """The number that a header says; None where it says none."""
    text = (text or "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
