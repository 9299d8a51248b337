"""A small Hugging Face hub on loopback: what it says of its repositories, and their files by way of another host.

Small files come from the hub itself, files of Git LFS by a redirect to ``cdn``, as on the public one. It keeps every
request with its Authorization header.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

from support.faulty_server import FaultyServer


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class HubRepository:
    """Files of each revision; the names in ``lfs`` are kept as Git LFS has them."""

    revisions: dict[str, dict[str, bytes]]
    lfs: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    token: str | None = None
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        for name in self.revisions:
            commit = hashlib.sha1(name.encode()).hexdigest()
            if revision in (name, commit):
                return commit
        return None

    def files(self, commit: str) -> dict[str, bytes]:
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


@dataclass
class HubServer:
    """Use it in a ``with`` statement; ``statuses`` are answers that the next questions get instead."""

    repositories: dict[str, HubRepository]
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    page: bytes | None = None
    certificate: Path | None = None

    def __post_init__(self) -> None:
        self.cdn = FaultyServer({})
        owner = self

        class Handler(_Handler):
            hub = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self._server.server_address[1]}"

    def asked(self, part: str) -> list[str | None]:
        """The Authorization headers of the requests whose path holds ``part``."""
        return [header for path, header in self.requests if part in path]

    def __enter__(self) -> HubServer:
        self.cdn.__enter__()
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.cdn.__exit__(kind, error, trace)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would cost 40 ms an answer
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.path, self.headers.get("Authorization")))
        if self.hub.statuses:
            self._reply(self.hub.statuses.pop(0), b"")
            return
        if self.hub.page is not None:
            self._reply(200, self.hub.page, {"Content-Type": "text/html"})
            return
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        repository = self.hub.repositories.get(name)
        known = repository is not None and (
            repository.token is None or self.headers.get("Authorization") == f"Bearer {repository.token}"
        )
        if not known:
            gated = repository is not None and repository.gated
            self._reply(401, b"", {"X-Error-Code": "GatedRepo" if gated else "RepoNotFound"})
        elif api:
            self._tell(name, repository, parts[4:])
        else:
            self._file(repository, repository.commit(parts[3]) or "", "/".join(parts[4:]))

    def _tell(self, name: str, repository: HubRepository, question: list[str]) -> None:
        if question == ["refs"]:
            branches = [
                {"name": revision, "ref": f"refs/heads/{revision}", "targetCommit": repository.commit(revision)}
                for revision in repository.revisions
            ]
            self._json({"branches": branches, "tags": [], "converts": []})
            return
        commit = repository.commit("/".join(question[1:]) or "main")
        if commit is None:
            self._reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = []
        for file, data in repository.files(commit).items():
            entry: dict[str, object] = {"rfilename": file, "size": len(data), "blobId": git_blob(data)}
            if file in repository.lfs:
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        self._json({"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []})

    def _file(self, repository: HubRepository, commit: str, file: str) -> None:
        data = repository.files(commit).get(file)
        if data is None:
            self._reply(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif file in repository.lfs:
            self.hub.cdn.files.setdefault(f"{commit}/{file}", data)
            self._reply(302, b"", {"Location": self.hub.cdn.link(f"{commit}/{file}")})
        else:
            headers = {"ETag": f'"{git_blob(data)}"', "X-Repo-Commit": commit, "Content-Type": "text/plain"}
            self._reply(200, data, headers)

    def _json(self, content: object) -> None:
        self._reply(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
