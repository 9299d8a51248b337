"""LLM in the handlers of a web server: many callers, and one that goes away in the middle."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from neoxrun import LLM
from neoxrun.errors import NeoxrunError


class Handler(BaseHTTPRequestHandler):
    """Answers a JSON object of the arguments of ``generate``: in one piece, or as it comes."""

    llm: LLM
    gone: threading.Event

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stream = asked.pop("stream", False)
        try:
            if stream:
                self.send_response(200)
                self.end_headers()
                with self.llm.stream(asked.pop("prompt"), asked) as pieces:
                    for piece in pieces:
                        self.wfile.write(piece.encode())
                return
            answer = self.llm.generate(asked.pop("prompt"), asked)
            self.send_response(200)
            self.end_headers()
            self.wfile.write((answer.text or "").encode())
        except NeoxrunError as error:
            self.send_error(400, error.code)
        except ConnectionError:
            self.gone.set()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with LLM("demo", device="cpu", dtype="fp32") as llm:
        Handler.llm, Handler.gone = llm, threading.Event()
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
            threading.Thread(target=running.serve_forever, daemon=True).start()
            yield running
            running.shutdown()


def ask(server: ThreadingHTTPServer, **asked: object) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/", json.dumps(asked).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def test_many_callers_get_their_own_answers(server: ThreadingHTTPServer) -> None:
    asked = [
        {"prompt": f"x{number} =", "max_tokens": 6, "temperature": 0.8 * (number % 2), "seed": number}
        for number in range(60)
    ]
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda one: ask(server, **one, stream=one["seed"] % 3 == 0), asked))
    for one, text in zip(asked, found, strict=True):
        prompt = one.pop("prompt")
        assert text == Handler.llm.generate(str(prompt), one).text


def test_a_wrong_request_is_refused_and_the_others_are_not(server: ThreadingHTTPServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match="unknown_option") as caught:
        ask(server, prompt="x", temprature=1)
    caught.value.close()
    assert ask(server, prompt="x", max_tokens=2, temperature=0)


def test_a_caller_that_goes_away_ends_its_request(server: ThreadingHTTPServer) -> None:
    asked = json.dumps({"prompt": "x =", "max_tokens": 490, "ignore_eos": True, "stream": True})
    with socket.create_connection(("127.0.0.1", server.server_port)) as caller:
        caller.sendall(f"POST / HTTP/1.0\r\nContent-Length: {len(asked)}\r\n\r\n{asked}".encode())
        assert caller.recv(10)
    assert Handler.gone.wait(30), "before the answer has ended, which nobody reads"
    assert Handler.llm.generate("x =", temperature=0, max_tokens=2).length == 2
