"""What is sent to whom, and which redirects are followed: against real servers, with a real proxy and real TLS."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from neoxrun.download.http import HttpClient, HttpOptions, wait_seconds
from neoxrun.download.remote import RemoteFile
from neoxrun.download.trouble import Stopped, Trouble, status_trouble
from neoxrun.download.urls import origin
from neoxrun.errors import NetworkError, UsageError
from support.downloads import IMPATIENT, data_of, fetch_one, remote
from support.faulty_server import Fault, FaultyServer

NAME = "one.bin"
DATA = data_of(20_000)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({NAME: DATA}) as server:
        yield server


@pytest.fixture
def other() -> Iterator[FaultyServer]:
    with FaultyServer({NAME: DATA}) as server:
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody trusts."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    key, pem = folder / "key.pem", folder / "both.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", pem]
    subprocess.run([*command, *subject], check=True, capture_output=True)
    pem.write_text(key.read_text() + pem.read_text())
    return pem


def trouble_with(url: str, options: HttpOptions = IMPATIENT) -> Trouble:
    with pytest.raises(Trouble) as caught, HttpClient(options, threading.Event()).get(url):
        pass
    return caught.value


def test_what_is_sent(server: FaultyServer, tmp_path: Path) -> None:
    fetch_one(remote(server, NAME), tmp_path)
    headers = server.gets(NAME)[0].headers
    assert headers["User-Agent"].startswith("neoxrun")
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Authorization", "Cookie", "Range"} & headers.keys()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: FaultyServer, other: FaultyServer, tmp_path: Path, status: int) -> None:
    server.faults[NAME] = [Fault("redirect", status, text=other.link(NAME))]
    arrival = fetch_one(remote(server, NAME), tmp_path)
    assert arrival.url == server.link(NAME)
    assert len(other.gets(NAME)) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "javascript:x"])
def test_redirects_to_other_schemes_are_refused(server: FaultyServer, target: str) -> None:
    server.faults[NAME] = [Fault("redirect", text=target)]
    trouble = trouble_with(server.link(NAME))
    assert "not http or https" in trouble.reason
    assert not trouble.again


def test_redirect_from_https_to_http_is_refused(server: FaultyServer, certificate: Path) -> None:
    with FaultyServer({NAME: DATA}, certificate=certificate) as safe:
        safe.faults[NAME] = [Fault("redirect", text=server.link(NAME))]
        trouble = trouble_with(safe.link(NAME), replace(IMPATIENT, ca_bundle=certificate))
    assert "unprotected" in trouble.reason
    assert server.gets(NAME) == []


def test_redirects_end(server: FaultyServer) -> None:
    server.faults[NAME] = [Fault("redirect", text=f"/{NAME}?{number}") for number in range(99)]
    assert "redirects" in trouble_with(server.link(NAME)).reason
    assert len(server.gets(NAME)) == 11


def test_credentials_go_to_their_origin_only(server: FaultyServer, other: FaultyServer, tmp_path: Path) -> None:
    options = replace(IMPATIENT, credentials={origin(server.url): "Bearer secret"})
    server.faults[NAME] = [Fault("redirect", text=f"/{NAME}"), Fault("redirect", text=other.link(NAME))]
    server.faults[NAME][0] = Fault("redirect", text=f"/{NAME}?again")
    fetch_one(remote(server, NAME), tmp_path, options)
    assert [request.headers.get("Authorization") for request in server.gets(NAME)] == ["Bearer secret"] * 2
    assert "Authorization" not in other.gets(NAME)[0].headers


def test_credentials_win_over_netrc_and_netrc_serves_the_rest(
    server: FaultyServer, other: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password pass\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    options = replace(IMPATIENT, credentials={origin(server.url): "Bearer secret"})
    fetch_one(remote(server, NAME), tmp_path / "a", options)
    fetch_one(remote(other, NAME), tmp_path / "b", options)
    assert server.gets(NAME)[0].headers["Authorization"] == "Bearer secret"
    assert other.gets(NAME)[0].headers["Authorization"] == "Basic " + b64encode(b"me:pass").decode()


def test_credentials_are_in_no_message(server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="neoxrun")
    url = server.link(NAME).replace("://", "://user:hidden@") + "?signature=hidden"
    options = replace(IMPATIENT, credentials={origin(server.url): "Bearer hidden"})
    server.faults[NAME] = [Fault("status", 503), Fault("cut", 1000), *[Fault("status", 403)] * 9]
    with pytest.raises(NetworkError) as caught:
        fetch_one(RemoteFile(NAME, (url,)), tmp_path, options)
    assert caught.value.code == "failed_download"
    state = (tmp_path / f".{NAME}.part.json").read_text()
    assert "hidden" not in caught.value.render() + caplog.text + repr(options) + state
    server.faults[NAME] = []
    arrival = fetch_one(RemoteFile(NAME, (url,)), tmp_path, options)
    assert arrival.url == server.link(NAME)


def test_proxy_of_the_environment(server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA)

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.005,), daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        file = RemoteFile(NAME, ("http://weights.invalid/one.bin",), len(DATA))
        assert fetch_one(file, tmp_path / "a").size == len(DATA)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        fetch_one(remote(server, NAME), tmp_path / "b")
        proxy.shutdown()
    assert seen == ["http://weights.invalid/one.bin"]
    assert len(server.gets(NAME)) == 1


def test_proxy_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    trouble = trouble_with("http://weights.invalid/one.bin")
    assert "proxy" in trouble.reason
    assert "http_proxy" in (trouble.hint or "")
    assert not trouble.reached


def test_certificates(certificate: Path, tmp_path: Path) -> None:
    with FaultyServer({NAME: DATA}, certificate=certificate) as safe:
        trouble = trouble_with(safe.link(NAME))
        assert "not trusted" in trouble.reason
        assert "--ca-bundle" in (trouble.hint or "")
        assert not trouble.again
        assert safe.gets(NAME) == []
        safe.faults[NAME] = [Fault("cut", 5000), Fault("drop")]
        fetch_one(remote(safe, NAME), tmp_path, replace(IMPATIENT, ca_bundle=certificate))
        assert safe.sent(NAME) == len(DATA)


def test_certificates_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--ca-bundle") as caught:
        HttpClient(replace(IMPATIENT, ca_bundle=tmp_path / "none.pem"), threading.Event())
    assert caught.value.code == "invalid_value"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/x", "refuses connections"),
        ("http://no-such-host.invalid/x", "not known"),
    ],
)
def test_nobody_there(url: str, said: str) -> None:
    trouble = trouble_with(url)
    assert said in trouble.reason
    assert trouble.again
    assert not trouble.reached


@pytest.mark.parametrize("url", ["ftp://x/y", "file:///etc/passwd", "/etc/passwd", "http:///x", "http://x:99999/", "x"])
def test_addresses_that_are_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="not an address") as caught:
        fetch_one(RemoteFile(NAME, (url,), 1), tmp_path)
    assert caught.value.code == "bad_address"


def test_silent_host_does_not_hold_a_run_up(tmp_path: Path) -> None:
    with FaultyServer({NAME: DATA}) as server:
        server.faults[NAME] = [Fault("stall", 0)] * 9
        start = time.monotonic()
        with pytest.raises(NetworkError, match="stalled") as caught:
            fetch_one(remote(server, NAME), tmp_path, replace(IMPATIENT, tries=3, stall_timeout=0.2))
        assert caught.value.code == "failed_download"
        assert 3 * 0.2 <= time.monotonic() - start < 6


def test_stopped_client_asks_nobody(server: FaultyServer) -> None:
    stop = threading.Event()
    client = HttpClient(IMPATIENT, stop)
    stop.set()
    with pytest.raises(Stopped):
        client.get(server.link(NAME))
    assert server.gets(NAME) == []


def test_waits_that_servers_ask_for(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[NAME] = [Fault("status", 429, {"Retry-After": "1"})]
    start = time.monotonic()
    fetch_one(remote(server, NAME), tmp_path)
    assert 1 <= time.monotonic() - start < 3
    in_ten = status_trouble(503, "", formatdate(time.time() + 10, usegmt=True), 60)
    assert 8 <= wait_seconds(in_ten, 1, HttpOptions()) <= 10
    assert not status_trouble(503, "", "61", 60).again
    assert status_trouble(503, "", "soon", 60).after is None


def test_waits_double_up_to_a_limit() -> None:
    options = HttpOptions(backoff=1, longest_wait=20)
    waits = [wait_seconds(Trouble("", again=True), failures, options) for failures in range(1, 12)]
    assert all(0.75 * 2**n <= wait <= 1.25 * 2**n for n, wait in enumerate(waits[:4]))
    assert waits[-1] == 20
