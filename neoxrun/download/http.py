"""HTTP for downloads: requests, redirects, and a response's body as it arrives.

Every failure is a ``Trouble``. Text from servers and libraries goes into messages only if it cannot hold credentials.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from urllib.parse import urldefrag, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from neoxrun.download.trouble import HTTPError, Stopped, Trouble, exception_trouble, status_trouble, whole_number
from neoxrun.download.urls import check_scheme, origin, shown_url
from neoxrun.errors import NetworkError, UsageError
from neoxrun.terminal.words import printable

_CHUNK = 1 << 20
_MOST_REDIRECTS = 10


@dataclass(frozen=True)
class HttpOptions:
    """How to fetch.

    Attributes:
        tries: how many times in a row an address may fail without sending new bytes.
        few_tries: the same for an address whose host has sent nothing yet, or that sends something other than the
            file: most likely it will do so again.
        connect_timeout: seconds to wait for a connection.
        stall_timeout: seconds without a byte, or with fewer than ``least_speed`` bytes a second, before the connection
            is given up.
        backoff: seconds before the second try; they double with each try.
        longest_wait: the longest wait in seconds; a server that asks for a longer one is not asked again.
        ca_bundle: certificates to trust instead of the usual ones.
        credentials: ``urls.origin(url)`` -> value of the Authorization header, which is sent to that origin only,
            also after a redirect.

    Raises:
        UsageError: the file of certificates does not exist.
    """

    tries: int = 8
    few_tries: int = 3
    connect_timeout: float = 15.0
    stall_timeout: float = 30.0
    least_speed: float = 500.0
    backoff: float = 0.5
    longest_wait: float = 120.0
    ca_bundle: Path | None = None
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.ca_bundle is not None and not self.ca_bundle.exists():
            raise UsageError(
                "the file of certificates (--ca-bundle) does not exist",
                code="invalid_value",
                where=str(self.ca_bundle),
            )


class HttpClient:
    """Requests of one download, from all its threads, over persistent connections.

    Args:
        options: time-outs, certificates and credentials.
        stop: once it is set, every read raises ``Stopped``.
    """

    def __init__(self, options: HttpOptions, stop: threading.Event) -> None:
        self.options = options
        self.stop = stop
        self._open: set[HttpResponse] = set()
        self._session = requests.Session()
        self._session.headers.clear()
        self._session.headers.update({"User-Agent": _user_agent(), "Accept": "*/*", "Accept-Encoding": "identity"})
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=16, pool_maxsize=64, max_retries=0))

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
        """The response to GET: 200, 206 or 416. Use it in a ``with`` statement.

        Raises:
            Trouble: any other response, or none.
            Stopped: the download was told to stop.
        """
        return self._follow("GET", url, headers or {})

    def head(self, url: str) -> HttpResponse:
        """The response to HEAD, without a body; errors as in ``get``."""
        return self._follow("HEAD", url, {})

    def abort(self) -> None:
        """Stop, and wake the threads that wait for the rest of a response."""
        self.stop.set()
        for response in list(self._open):
            response.wake()

    def close(self) -> None:
        """Drop the connections."""
        self._session.close()

    def _follow(self, method: str, url: str, headers: Mapping[str, str]) -> HttpResponse:
        seen = {url}
        for _ in range(_MOST_REDIRECTS + 1):
            if self.stop.is_set():
                raise Stopped
            response = self._send(method, url, headers)
            if not response.is_redirect:
                if response.status_code in (200, 206, 416):
                    return HttpResponse(response, url, self.options, self.stop, self._open)
                response.close()
                retry_after = response.headers.get("Retry-After")
                phrase = response.reason or ""
                raise status_trouble(response.status_code, phrase, retry_after, self.options.longest_wait)
            target = _redirect_target(url, response.headers["Location"])
            response.close()
            if target in seen:
                raise Trouble("the server's redirects go in a circle", again=True, lasting=True)
            seen.add(target)
            url = target
        raise Trouble(f"the server sent more than {_MOST_REDIRECTS} redirects", again=False)

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        options = self.options
        secret = options.credentials.get(origin(url))
        with _translated(url):
            return self._session.request(
                method,
                url,
                headers=headers,
                # None lets requests look into .netrc for this host. Each redirect is a separate request, so that
                # credentials for one host never reach the next.
                auth=None if secret is None else _Authorization(secret),
                stream=True,
                allow_redirects=False,
                timeout=(options.connect_timeout, options.stall_timeout),
                verify=True if options.ca_bundle is None else str(options.ca_bundle),
            )


class HttpResponse:
    """A response whose body has not been read.

    Attributes:
        status: 200, 206 or 416.
        url: the last address, after redirects.
        etag: as sent; None if there is none.
        last_modified: as sent; None if there is none.
        length: bytes of this body; None if the server does not say.
        closed_by_length: a complete body can be told from a truncated one: its length is given, or it is chunked.
        is_html: its type is that of a web page.
        encoding: how the body is encoded; None if it is not.
    """

    def __init__(
        self,
        response: requests.Response,
        url: str,
        options: HttpOptions,
        stop: threading.Event,
        open_responses: set[HttpResponse],
    ) -> None:
        self._response = response
        self._open_responses = open_responses
        self._options = options
        self._stop = stop
        headers = response.headers
        self.status = response.status_code
        self.url = url
        self.etag: str | None = headers.get("ETag") or None
        self.last_modified: str | None = headers.get("Last-Modified") or None
        self.length = whole_number(headers.get("Content-Length"))
        chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        if chunked:
            self.length = None
        self.closed_by_length = chunked or self.length is not None
        self.is_html = headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml"))
        encoding = headers.get("Content-Encoding", "identity").strip().lower()
        self.encoding: str | None = None if encoding in ("", "identity") else printable(encoding)
        self._content_range = headers.get("Content-Range", "")

    @property
    def content_range(self) -> tuple[int, int, int] | None:
        """First byte, last byte and total length of a 206; None if the header does not state all three."""
        found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", self._content_range.strip())
        if found is None:
            return None
        first, last, total = (int(number) for number in found.groups())
        return (first, last, total) if first <= last < total else None

    def chunks(self) -> Iterator[bytes]:
        """The body, as it arrives.

        Raises:
            Trouble: it stalls, or the connection breaks.
            Stopped: the download was told to stop.
        """
        limit = self._options.stall_timeout
        waited, arrived = 0.0, 0
        while True:
            start = time.monotonic()
            try:
                with _translated(self.url):
                    chunk = self._response.raw.read1(_CHUNK, decode_content=False)
            except Trouble:
                if not self._stop.is_set():
                    raise
            if self._stop.is_set():
                raise Stopped
            if not chunk:
                return
            # Only the time spent waiting for the server counts; a slow local disk does not.
            waited += time.monotonic() - start
            arrived += len(chunk)
            if waited >= limit:
                if arrived < self._options.least_speed * waited:
                    raise Trouble(f"the connection is too slow ({arrived} bytes in {waited:.0f} s)", again=True)
                waited, arrived = 0.0, 0
            yield chunk

    def wake(self) -> None:
        """End a read that another thread waits in."""
        # The read may have ended by itself at this very moment.
        with suppress(OSError, ValueError, RuntimeError):
            self._response.raw.shutdown()

    def __enter__(self) -> HttpResponse:
        self._open_responses.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close a connection with unread bytes; one whose response is complete is kept."""
        self._open_responses.discard(self)
        self._response.close()


class _Authorization(requests.auth.AuthBase):
    """Sets the header, which keeps requests from looking for another login."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request


def wait_seconds(trouble: Trouble, failures: int, options: HttpOptions) -> float:
    """Seconds to wait after this many failures in a row: as the server asked, or doubling, with some randomness."""
    seconds = trouble.after
    if seconds is None:
        # Many clients that lost their connection at the same moment must not all come back at the same moment.
        seconds = options.backoff * 2 ** max(0, failures - 1) * random.uniform(0.75, 1.25)
    return min(seconds, options.longest_wait)


def _redirect_target(url: str, location: str) -> str:
    # Header values arrive as Latin-1, whatever they were written in.
    target = urldefrag(urljoin(url, location.encode("latin-1", "replace").decode("utf-8", "replace"))).url
    try:
        check_scheme(target)
    except NetworkError as error:
        text = f"the server redirects to {shown_url(target)}, which is not http or https"
        raise Trouble(text, again=False) from error
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise Trouble(f"the server redirects from https to an unprotected address: {shown_url(target)}", again=False)
    return target


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn every exception of the underlying libraries into a Trouble."""
    try:
        yield
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise Trouble("the address, or that of the proxy, is malformed", again=False) from error
    except (requests.RequestException, HTTPError, OSError, ValueError) as error:
        raise exception_trouble(url, error) from error


def _user_agent() -> str:
    try:
        return f"neoxrun/{version('neoxrun')}"
    except PackageNotFoundError:
        return "neoxrun"
