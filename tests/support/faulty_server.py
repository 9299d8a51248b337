"""A web server on loopback that goes wrong on purpose: threads, Range, ETag, listings, and faults by plan.

    with FaultyServer({"a/b.bin": data}) as server:
        server.faults["a/b.bin"] = [Fault("cut", 1000), Fault("status", 503, {"Retry-After": "1"})]
        ... server.url ...

Each GET of a file takes the first fault of its list; without one the file is served as it should be. ``server.draw``
may be set to a function that draws one instead.

All of it is in one file because benchmarks/download_storm.py loads that file by its path.
"""

from __future__ import annotations

import hashlib
import html
import socket
import ssl
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, unquote, urlsplit

PAGE = b"<!DOCTYPE html><html><body>Sorry, something went wrong.</body></html>"
BARE_PAGE = b"<!-- nothing that says what it is --><p>Sorry, something went wrong."


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    Kinds, and what ``number`` is:

    ``cut``          the connection ends after that many bytes of the body
    ``drop``         it ends before any answer
    ``stall``        that many bytes, and then silence
    ``drip``         that many bytes, and then one every tenth of a second
    ``status``       that status
    ``no-range``     the whole file, whatever range is asked for; cut after that many bytes, unless it is 0
    ``length``       a Content-Length that is wrong by that many bytes
    ``corrupt``      the byte at this place of the body is wrong
    ``change``       the file is another one from now on; cut after that many bytes, unless it is 0
    ``circle``       a redirect to itself, by way of another address
    ``redirect``     a redirect to ``text``
    ``html``         an error page with status 200
    ``masked-html``  one that says it is application/octet-stream
    ``bad-range``    206 for another range than the one asked for
    ``overflow``     chunked, and that many bytes too many
    ``chunked``      without a length, and that many bytes too few
    ``endless``      right, but with neither length nor chunks
    ``gzip``         says that it is compressed
    ``bare``         right, but without ETag and Last-Modified
    """

    kind: str
    number: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class ReceivedRequest:
    """What was asked, and how many bytes of the body were sent."""

    method: str
    path: str
    headers: dict[str, str]
    start: int
    sent: int
    fault: str


class FaultyServer:
    def __init__(self, files: dict[str, bytes], *, certificate: Path | None = None) -> None:
        self.files = dict(files)
        self.versions: Counter[str] = Counter()
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.draw: Callable[[str, int, int], Fault | None] | None = None
        self.changed: Callable[[str, bytes], bytes] = lambda name, data: hashlib.sha256(data).digest() + data[32:]
        self.listings: dict[str, str] = {}
        self.requests: list[ReceivedRequest] = []
        self.head_status = 200
        self.send_buffer = 0
        self.deaf = False  # to If-Range: a range is sent, whatever it is of.
        self.active = 0
        self.lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self)
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/"

    def link(self, name: str) -> str:
        return self.url + quote(name)

    def sent(self, name: str) -> int:
        """Bytes of this file that were sent."""
        self.settle()
        with self.lock:
            return sum(request.sent for request in self.requests if request.path == name)

    def gets(self, name: str) -> list[ReceivedRequest]:
        self.settle()
        with self.lock:
            return [request for request in self.requests if request.path == name and request.method == "GET"]

    def settle(self) -> None:
        """Wait for the requests under way: a client has its last byte before the server has counted it."""
        wait_until(lambda: self.active == 0, 3)

    def etag(self, name: str) -> str:
        return f'"{hashlib.md5(self.files[name]).hexdigest()}-{self.versions[name]}"'

    def closing(self, seconds: float) -> bool:
        return self._closing.wait(seconds)

    def __enter__(self) -> FaultyServer:
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def __init__(self, address: tuple[str, int], owner: FaultyServer) -> None:
        super().__init__(address, _Handler)
        self.owner = owner

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would cost 40 ms an answer
    server: _Server
    timeout = 30

    def setup(self) -> None:
        if self.server.owner.send_buffer:
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.server.owner.send_buffer)
        super().setup()

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self._counted("HEAD")

    def do_GET(self) -> None:
        self._counted("GET")

    def _counted(self, method: str) -> None:
        owner = self.server.owner
        with owner.lock:
            owner.active += 1
        try:
            self._answer(method)
        finally:
            with owner.lock:
                owner.active -= 1

    def _answer(self, method: str) -> None:
        owner = self.server.owner
        name = unquote(urlsplit(self.path).path)[1:]
        if name in owner.listings:
            self._whole(owner.listings[name].encode(), "text/html; charset=utf-8", method)
            return
        if name.startswith("circle/"):
            self._redirect(quote("/" + name.removeprefix("circle/")))
            self._log(method, name, 0, 0, "circle")
            return
        if name not in owner.files:
            if (name == "" or name.endswith("/")) and any(file.startswith(name) for file in owner.files):
                self._whole(_listing(name, owner.files).encode(), "text/html", method)
            else:
                self._whole(b"nothing here", "text/plain", method, 404)
                self._log(method, name, 0, 0, "404")
            return
        if method == "HEAD":
            size = len(owner.files[name])
            self.send_response(owner.head_status)
            self.send_header("Content-Length", str(size if owner.head_status == 200 else 0))
            self.end_headers()
            self._log(method, name, 0, 0, "")
            return
        self._file(name)

    def _file(self, name: str) -> None:
        owner = self.server.owner
        start = self._start(len(owner.files[name]))
        with owner.lock:
            fault = owner.faults[name].pop(0) if owner.faults[name] else None
        if fault is None and owner.draw is not None:
            fault = owner.draw(name, start, len(owner.files[name]))
        fault = fault or Fault("")
        if fault.kind == "change":
            with owner.lock:
                owner.files[name] = owner.changed(name, owner.files[name])
                owner.versions[name] += 1
        data, etag = owner.files[name], owner.etag(name)
        date = formatdate(1_600_000_000 + owner.versions[name], usegmt=True)
        if self._immediate(name, fault):
            return

        condition = self.headers.get("If-Range")
        ranged = (
            "Range" in self.headers and fault.kind != "no-range" and (owner.deaf or condition in (None, etag, date))
        )
        if ranged and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            self._log("GET", name, start, 0, fault.kind)
            return
        start = start if ranged else 0
        if ranged and fault.kind == "bad-range":
            start = min(start + 1, len(data) - 1)
        body = data[start:]
        if fault.kind == "corrupt" and body:
            place = fault.number % len(body)
            body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if fault.kind != "bare":
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", date)
        if fault.kind == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", "application/octet-stream")
        chunked = fault.kind in ("overflow", "chunked")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif fault.kind != "endless":
            wrong = fault.number if fault.kind == "length" else 0
            self.send_header("Content-Length", str(max(0, len(body) + wrong)))
            if wrong < 0:
                body = body[: max(0, len(body) + wrong)]
        self.end_headers()
        self.sent_now = 0
        try:
            self._body(body, fault, chunked)
        finally:
            self._log("GET", name, start, self.sent_now, fault.kind)
        if fault.kind in ("cut", "stall", "drip", "endless", "length"):
            self.close_connection = True

    def _immediate(self, name: str, fault: Fault) -> bool:
        """Answers that have nothing of the file."""
        if fault.kind == "drop":
            self.close_connection = True
        elif fault.kind == "status":
            self._whole(PAGE, "text/html", "GET", fault.number, fault.headers)
        elif fault.kind == "html":
            self._whole(BARE_PAGE, "text/html", "GET")
        elif fault.kind == "masked-html":
            self._whole(b"\n  " + PAGE, "application/octet-stream", "GET")
        elif fault.kind == "circle":
            self._redirect("/circle/" + quote(name))
        elif fault.kind == "redirect":
            self._redirect(fault.text, fault.number or 302)
        else:
            return False
        self._log("GET", name, 0, 0, fault.kind)
        return True

    def _body(self, body: bytes, fault: Fault, chunked: bool) -> None:
        owner = self.server.owner
        if fault.kind in ("no-range", "change") and fault.number:
            self._send(body[: fault.number])
            self.close_connection = True
            return
        if fault.kind in ("cut", "stall", "drip"):
            self._send(body[: fault.number])
            if fault.kind == "stall":
                # Until the client leaves.
                self.connection.settimeout(0.05)
                while not owner.closing(0):
                    try:
                        if not self.connection.recv(1):
                            return
                    except TimeoutError:
                        continue
            if fault.kind == "drip":
                for place in range(fault.number, len(body)):
                    if owner.closing(0.1):
                        return
                    self._send(body[place : place + 1])
            return
        if not chunked:
            self._send(body)
            return
        if fault.kind == "chunked":
            body = body[: len(body) - fault.number]
        for place in range(0, len(body), 50_000):
            piece = body[place : place + 50_000]
            self.wfile.write(b"%x\r\n" % len(piece))
            self._send(piece)
            self.wfile.write(b"\r\n")
        if fault.kind == "overflow":
            self.wfile.write(b"%x\r\n" % fault.number + bytes(fault.number) + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = self.connection.send(view[: 1 << 16])
            self.sent_now += count
            view = view[count:]

    def _start(self, size: int) -> int:
        first = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        return int(first)

    def _redirect(self, target: str, status: int = 302) -> None:
        self.send_response(status)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _whole(
        self, body: bytes, kind: str, method: str, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if method == "GET":
            self.wfile.write(body)

    def _log(self, method: str, name: str, start: int, sent: int, fault: str) -> None:
        owner = self.server.owner
        with owner.lock:
            owner.requests.append(ReceivedRequest(method, name, dict(self.headers), start, sent, fault))


def _listing(folder: str, files: dict[str, bytes]) -> str:
    """A page as nginx makes it."""
    inside = sorted({name.removeprefix(folder).partition("/") for name in files if name.startswith(folder)})
    names = dict.fromkeys(first + slash for first, slash, _ in inside)
    lines = [f'<a href="{quote(name)}">{html.escape(name)}</a>  01-Jan-2022 00:00  -' for name in names]
    return f'<html><body><h1>Index of /{folder}</h1><hr><pre><a href="../">../</a>\n' + "\n".join(lines) + "</pre>"


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()
