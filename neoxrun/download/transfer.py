"""One file: from its mirrors, through every trouble, to its name."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from neoxrun.download.http import Answer, Client, check_scheme, wait_seconds
from neoxrun.download.part import Part, Version
from neoxrun.download.proof import sha256_of
from neoxrun.download.remote import (
    Arrival,
    RemoteFile,
    Underway,
    corrupt_path,
    origin,
    part_path,
    remove_leftovers,
    replaced_paths,
    shown_url,
)
from neoxrun.download.trouble import Stopped, Trouble
from neoxrun.errors import CheckpointError, DataError, NeoxrunError, NetworkError

Check = Callable[[RemoteFile, Path], None]
"""Proves the contents of a file that lies at the path; raises a NeoxrunError where they are wrong."""

_MOST_SPOILT = 2
"""Whole arrivals with wrong contents, until a mirror is left: once may be an accident on the way."""

_PROGRESS = 1 << 20
"""Bytes that make a try count as progress (for small files a hundredth of them is enough)."""


class _Spoilt(Exception):
    """All bytes arrived, and they are wrong."""

    def __init__(self, error: NeoxrunError) -> None:
        super().__init__(error.message)
        self.error = error


class Transfer:
    """Fetches one file.

    Args:
        file: what to fetch.
        folder: the target folder.
        client: makes the requests; its ``stop`` ends this at once, with the part kept.
        running: is told how far it is, and what goes wrong on the way.
        check: proves the contents beyond the checksum.
        answered: origins that something has come from in this run; shared by its threads.
    """

    def __init__(
        self,
        file: RemoteFile,
        folder: Path,
        client: Client,
        running: Underway,
        check: Check | None,
        answered: set[str],
    ) -> None:
        self._file = file
        self._path = folder / file.name
        self._client = client
        self._running = running
        self._check = check
        self._answered = answered

    def run(self) -> Arrival:
        """Fetch it, unless it is there and right.

        Raises:
            NetworkError: no mirror gives it.
            CheckpointError: what the mirrors give is wrong; the last of it is at ``NAME.corrupt``.
            DataError: the disk refuses.
            Stopped: told to stop.
        """
        for url in self._file.urls:
            check_scheme(url)
        start = time.monotonic()
        there = self._already(start)
        if there is not None:
            return there
        part = Part(self._path, self._file.sha256, self._client.stop)
        self._running.done = part.size
        try:
            url = self._from_mirrors(part)
            digest, size = part.hexdigest(), part.size
            part.publish()
        finally:
            part.close()
        return Arrival(self._file.name, self._path, size, digest, shown_url(url), time.monotonic() - start)

    def _already(self, start: float) -> Arrival | None:
        """The file, if it is there and right; a wrong one is set aside."""
        if not self._path.exists():
            return None
        if not self._path.is_file():
            raise DataError("something that is not a file has the name of a file to fetch", where=str(self._path))
        size = self._path.stat().st_size
        # A checksum that is right says more than any size.
        if self._file.sha256 is not None or self._file.size in (None, size):
            digest = sha256_of(self._path, self._go_on)
            if self._file.sha256 in (None, digest) and self._passes(self._path):
                self._running.done = size
                # Left by a process that was killed just after it had given the file its name.
                remove_leftovers(self._path)
                return Arrival(self._file.name, self._path, size, digest, None, time.monotonic() - start)
        # Under a name of its own: what arrives may be wrong too, and must not take its place.
        aside = replaced_paths(self._path)[-1]
        self._path.replace(aside)
        self._running.say(f"{self._file.name} is there but not right: it is fetched again; it is now {aside.name}")
        return None

    def _go_on(self, count: int) -> None:
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
        """Fill the part and prove it; returns the mirror that gave the last of it."""
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
                self._running.say(f"{self._file.name}: on to the next mirror")
        raise spoilt or self._failure(troubles, part.size)

    def _failure(self, troubles: list[tuple[str, Trouble]], kept: int) -> NetworkError:
        reasons = [trouble.reason for _, trouble in troubles]
        if len(troubles) > 1:
            reasons = [f"{url}: {trouble.reason}" for url, trouble in troubles]
        hints = [trouble.hint for _, trouble in troubles if trouble.hint]
        if any(trouble.again for _, trouble in troubles):
            hint = "Give the same command again later" + (f": it goes on after {kept} bytes." if kept else ".")
        else:
            hint = "Another try would end the same: check the address, or name another source with --mirror."
        return NetworkError(
            f"{self._file.name} cannot be fetched: {'; '.join(reasons) or 'nothing says from where'}",
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
                self._running.say(f"{self._file.name}: {found.error.message}; fetched again")
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
                        hint="What arrived was set aside under that name and is not used. Try again later, or name "
                        "another source with --mirror.",
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
        """One request, and as many bytes as it brings."""
        headers = {}
        # Without a mark or a checksum nothing would tell whether the rest belongs to what is there.
        if part.size and part.version is not None:
            condition = part.version.condition(url)
            if condition is not None or self._file.sha256 is not None:
                headers["Range"] = f"bytes={part.size}-"
            if condition is not None:
                headers["If-Range"] = condition
        with self._client.get(url, headers) as answer:
            self._answered.add(origin(url))
            version = Version.of(answer, url, self._file.sha256)
            if answer.status != 200:
                self._check_rest(part, answer, version)
                part.go_on(version)
            self._check_answer(answer, version)
            self._receive(part, answer, version)

    def _check_rest(self, part: Part, answer: Answer, version: Version) -> None:
        """Whether a 206 is what was asked for; the part is dropped where it is not."""
        found = answer.content_range
        fits = (
            answer.status == 206
            and found is not None
            and found[0] == part.size > 0
            and part.version is not None
            and part.version.is_same(version)
        )
        if not fits:
            part.clear()
            self._running.done = 0
            raise Trouble("the file has changed, or the server does not give its rest; it starts over", again=True)

    def _check_answer(self, answer: Answer, version: Version) -> None:
        """Refuse what cannot be the file, before anything is dropped for it."""
        name, expected = self._file.name, self._file.size
        if answer.is_html and not name.endswith((".html", ".htm")):
            raise _page_instead()
        if answer.encoding is not None:
            raise Trouble(f"the server sent it in an encoding that was not asked for: {answer.encoding}", again=False)
        if expected is not None and version.length not in (None, expected):
            raise Trouble(f"the server has {version.length} bytes instead of {expected}", again=True, lasting=True)
        if not answer.closed_by_length and expected is None and self._file.sha256 is None:
            raise Trouble("the server does not say how long the file is, nor where it ends", again=False)

    def _receive(self, part: Part, answer: Answer, version: Version) -> None:
        most = version.length if version.length is not None else self._file.size
        fresh = answer.status == 200
        for chunk in answer.chunks():
            if fresh:
                if _is_page(chunk) and not self._file.name.endswith((".html", ".htm")):
                    raise _page_instead()
                part.begin(version)
                fresh = False
            if most is not None and part.size + len(chunk) > most:
                if self._file.sha256 is None:
                    part.clear()
                    self._running.done = 0
                    raise Trouble(f"the server sends more than the {most} bytes that were announced", again=False)
                # The checksum says whether those that belong to the file are right.
                part.write(chunk[: most - part.size])
                break
            part.write(chunk)
            self._running.done = part.size
        if fresh:
            part.begin(version)
        if most is not None and part.size < most:
            raise Trouble(f"the connection ended after {part.size} of {most} bytes", again=True)
        part.finish()


def _page_instead() -> Trouble:
    return Trouble(
        "the server sent a web page instead of the file",
        again=True,
        lasting=True,
        hint="It may be the login page of the network or a notice of the server: open the address in a browser. "
        "--mirror names another source.",
    )


def _is_page(first: bytes) -> bool:
    """Whether the first bytes of a file are those of a web page."""
    return first[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))
