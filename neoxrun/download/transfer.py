"""Fetches one file: tries its mirrors, resumes after failures, and gives the checked file its name."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from neoxrun.download.http import HttpClient, HttpResponse, wait_seconds
from neoxrun.download.part import FileVersion, Part
from neoxrun.download.proof import sha256_of
from neoxrun.download.remote import (
    Arrival,
    RemoteFile,
    Underway,
    corrupt_path,
    part_path,
    remove_leftovers,
    replaced_paths,
)
from neoxrun.download.trouble import Stopped, Trouble, web_page_trouble
from neoxrun.download.urls import check_scheme, origin, shown_url
from neoxrun.errors import CheckpointError, DataError, NeoxrunError, NetworkError

ContentCheck = Callable[[RemoteFile, Path], None]
"""Checks the contents of the file at the path; raises a NeoxrunError if they are wrong."""

_MOST_SPOILT = 2
"""How often a mirror may send a complete file with wrong contents: the first time may be an accident on the way."""

_PROGRESS = 1 << 20
"""New bytes that make a try count as progress (for small files a hundredth of the file is enough)."""


class _Spoilt(Exception):
    """All bytes have arrived, and they are wrong."""

    def __init__(self, error: NeoxrunError) -> None:
        super().__init__(error.message)
        self.error = error


class Transfer:
    """Fetches one file.

    Args:
        file: what to fetch.
        folder: the target folder.
        client: makes the requests; its ``stop`` ends this at once, and the part is kept.
        running: shows the progress, and what goes wrong on the way.
        check: checks the contents beyond the checksum.
        answered: origins that have responded in this run; shared by its threads.
    """

    def __init__(
        self,
        file: RemoteFile,
        folder: Path,
        client: HttpClient,
        running: Underway,
        check: ContentCheck | None,
        answered: set[str],
    ) -> None:
        self._file = file
        self._path = folder / file.name
        self._client = client
        self._running = running
        self._check = check
        self._answered = answered

    def run(self) -> Arrival:
        """Fetch the file, unless it is already present and correct.

        Raises:
            NetworkError: no mirror sends it.
            CheckpointError: the mirrors' contents are wrong; the last are at ``NAME.corrupt``.
            DataError: the disk refuses to be read or written.
            Stopped: the download was told to stop.
        """
        for url in self._file.urls:
            check_scheme(url)
        start = time.monotonic()
        present = self._already_present(start)
        if present is not None:
            return present
        part = Part(self._path, self._file.sha256, self._client.stop)
        self._running.done = part.size
        try:
            url = self._from_mirrors(part)
            digest, size = part.hexdigest(), part.size
            part.publish()
        finally:
            part.close()
        return Arrival(self._file.name, self._path, size, digest, shown_url(url), time.monotonic() - start)

    def _already_present(self, start: float) -> Arrival | None:
        """The file, if it is present and correct; a wrong one is renamed."""
        if not self._path.exists():
            return None
        if not self._path.is_file():
            raise DataError(f"{self._file.name}: its path is not a file", code="unwritable_file", where=str(self._path))
        size = self._path.stat().st_size
        # A correct checksum proves more than any size.
        if self._file.sha256 is not None or self._file.size in (None, size):
            digest = sha256_of(self._path, self._check_stop)
            if self._file.sha256 in (None, digest) and self._passes(self._path):
                self._running.done = size
                # Left by a process that was killed just after it had given the file its name.
                remove_leftovers(self._path)
                return Arrival(self._file.name, self._path, size, digest, None, time.monotonic() - start)
        # Under a separate name, which the next wrong file does not take.
        aside = replaced_paths(self._path)[-1]
        self._path.replace(aside)
        self._running.say(f"{self._file.name} is present but wrong: renamed to {aside.name}, and fetched again")
        return None

    def _check_stop(self, count: int) -> None:
        if self._client.stop.is_set():
            raise Stopped

    def _passes(self, path: Path) -> bool:
        try:
            self._prove(path)
        except _Spoilt:
            return False
        return True

    def _prove(self, path: Path) -> None:
        if self._check is None:
            return
        try:
            self._check(self._file, path)
        except NeoxrunError as error:
            raise _Spoilt(error) from error

    def _from_mirrors(self, part: Part) -> str:
        """Fill the part and check it; returns the address that sent the last of it."""
        troubles: list[tuple[str, Trouble]] = []
        spoilt: NeoxrunError | None = None
        for url in self._file.urls:
            try:
                self._from_mirror(part, url)
                return url
            except Trouble as trouble:
                troubles.append((shown_url(url), trouble))
            except _Spoilt as found:
                spoilt = found.error
            if url != self._file.urls[-1]:
                self._running.say(f"{self._file.name}: trying the next mirror")
        raise spoilt or self._failure(troubles, part.size)

    def _failure(self, troubles: list[tuple[str, Trouble]], kept: int) -> NetworkError:
        reasons = [trouble.reason for _, trouble in troubles]
        if len(troubles) > 1:
            reasons = [f"{url}: {trouble.reason}" for url, trouble in troubles]
        hints = [trouble.hint for _, trouble in troubles if trouble.hint]
        if any(trouble.again for _, trouble in troubles):
            hint = "Run the same command again later" + (f": it resumes after {kept} bytes." if kept else ".")
        else:
            hint = "Another try would fail in the same way: check the address, or name another source with --mirror."
        return NetworkError(
            f"{self._file.name} cannot be fetched: {'; '.join(reasons) or 'it has no address'}",
            code="failed_download",
            where=troubles[0][0] if len(troubles) == 1 else None,
            hint=hints[0] if hints else hint,
        )

    def _from_mirror(self, part: Part, url: str) -> None:
        options = self._client.options
        failures = spoilt = 0
        furthest = part.size
        while True:
            try:
                if not part.is_whole:
                    self._request(part, url)
                self._prove_part(part)
                return
            except _Spoilt as found:
                spoilt += 1
                if spoilt >= _MOST_SPOILT:
                    raise
                furthest = failures = 0
                self._running.say(f"{self._file.name}: {found.error.message}; fetching it again")
                continue
            except Trouble as trouble:
                gained = part.size - furthest
                furthest = max(furthest, part.size)
                enough = min(_PROGRESS, furthest // 100)
                failures = 0 if gained > enough else failures + 1
                lasting = trouble.lasting or not (trouble.reached or origin(url) in self._answered)
                most = min(options.tries, options.few_tries) if lasting else options.tries
                if not trouble.again or failures >= most:
                    raise
                wait = wait_seconds(trouble, failures, options)
                self._running.say(f"{self._file.name}: {trouble.reason}; trying again in {wait:.1f} s")
            if self._client.stop.wait(wait):
                raise Stopped

    def _prove_part(self, part: Part) -> None:
        expected = self._file.sha256
        path = part_path(self._path)
        try:
            if expected is not None and part.hexdigest() != expected:
                raise _Spoilt(
                    CheckpointError(
                        f"the checksum of {self._file.name} is wrong: SHA-256 {part.hexdigest()} instead of {expected}",
                        code="wrong_checksum",
                        where=str(corrupt_path(self._path)),
                        hint="The file that arrived was renamed and is not used. Try again later, or name another "
                        "source with --mirror.",
                    )
                )
            self._prove(path)
        except _Spoilt as found:
            aside = part.set_aside()
            self._running.done = 0
            if found.error.where == str(path):
                found.error.where = str(aside)
            raise

    def _request(self, part: Part, url: str) -> None:
        """Make one request, and write the bytes that it brings."""
        headers = {}
        # Without a mark or a checksum nothing would show whether the rest belongs to the bytes that we have.
        if part.size and part.version is not None:
            condition = part.version.condition(url)
            if condition is not None or self._file.sha256 is not None:
                headers["Range"] = f"bytes={part.size}-"
            if condition is not None:
                headers["If-Range"] = condition
        with self._client.get(url, headers) as response:
            self._answered.add(origin(url))
            version = FileVersion.of_response(response, url, self._file.sha256)
            if response.status != 200:
                self._check_rest(part, response, version)
                part.resume(version)
            self._check_response(response, version)
            self._receive(part, response, version)

    def _check_rest(self, part: Part, response: HttpResponse, version: FileVersion) -> None:
        """Check that a 206 is the rest that was asked for; otherwise drop the part."""
        found = response.content_range
        fits = (
            response.status == 206
            and found is not None
            and found[0] == part.size > 0
            and part.version is not None
            and part.version.is_same(version)
        )
        if not fits:
            part.clear()
            self._running.done = 0
            text = "the file has changed, or the server does not send the rest of it; starting from the beginning"
            raise Trouble(text, again=True)

    def _check_response(self, response: HttpResponse, version: FileVersion) -> None:
        """Refuse a response that cannot be the file, before any bytes are dropped for it."""
        name, expected = self._file.name, self._file.size
        if response.is_html and not name.endswith((".html", ".htm")):
            raise web_page_trouble()
        if response.encoding is not None:
            text = f"the server sent the file in an encoding that was not asked for: {response.encoding}"
            raise Trouble(text, again=False)
        if expected is not None and version.length not in (None, expected):
            raise Trouble(f"the server has {version.length} bytes instead of {expected}", again=True, lasting=True)
        if not response.closed_by_length and expected is None and self._file.sha256 is None:
            raise Trouble("the server reports neither how long the file is nor where it ends", again=False)

    def _receive(self, part: Part, response: HttpResponse, version: FileVersion) -> None:
        most = version.length if version.length is not None else self._file.size
        fresh = response.status == 200
        for chunk in response.chunks():
            if fresh:
                if _is_page(chunk) and not self._file.name.endswith((".html", ".htm")):
                    raise web_page_trouble()
                part.begin(version)
                fresh = False
            if most is not None and part.size + len(chunk) > most:
                if self._file.sha256 is None:
                    part.clear()
                    self._running.done = 0
                    raise Trouble(f"the server sends more than the {most} bytes that were announced", again=False)
                # The checksum will show whether the bytes up to the expected length are right.
                part.write(chunk[: most - part.size])
                break
            part.write(chunk)
            self._running.done = part.size
        if fresh:
            part.begin(version)
        if most is not None and part.size < most:
            raise Trouble(f"the connection ended after {part.size} of {most} bytes", again=True)
        part.finish()


def _is_page(first: bytes) -> bool:
    """Whether the first bytes of a file are those of a web page."""
    return first[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))
