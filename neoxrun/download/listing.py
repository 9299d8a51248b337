"""The files on a web server: names from its HTML listing of a folder, and sizes from HEAD requests."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from html.parser import HTMLParser
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

from neoxrun.config.names import MANIFEST_NAME
from neoxrun.download.http import HttpClient, HttpOptions, HttpResponse, wait_seconds
from neoxrun.download.remote import RemoteFile, safe_name
from neoxrun.download.threads import start_each
from neoxrun.download.trouble import Stopped, Trouble
from neoxrun.download.urls import check_scheme, shown_url
from neoxrun.errors import NetworkError
from neoxrun.terminal.words import printable

_MOST_BYTES = 8 << 20
_MOST_FILES = 20_000
_MOST_FOLDERS = 200


def list_tree(url: str, options: HttpOptions, *, depth: int = 2) -> list[RemoteFile]:
    """The files below a folder of a web server, from its own listing (as Apache and nginx make them).

    Args:
        url: of the folder.
        options: time-outs, tries, certificates and credentials.
        depth: how many levels of folders to look into.

    Returns:
        The files, sorted by name; their sizes are not known yet.

    Raises:
        NetworkError: there is no listing, it is too large, or it has a name that would lead out of the folder.
    """
    check_scheme(url)
    client = HttpClient(options, threading.Event())
    try:
        return _Tree(client, url.rstrip("/") + "/").walk(depth)
    finally:
        client.close()


def ask_sizes(files: Sequence[RemoteFile], options: HttpOptions, *, jobs: int = 8) -> dict[str, int | None]:
    """Bytes of each file, by name: as known, or as the first server that responds reports (HEAD).

    Only for showing and planning: a mirror's file may be truncated. A size that no server reports is None; if there is
    an error, the download itself reports it better.
    """
    stop = threading.Event()
    client = HttpClient(options, stop)
    found: dict[str, int] = {}

    def ask_size(file: RemoteFile) -> None:
        size = None if stop.is_set() else _size(file, client)
        if size is not None:
            found[file.name] = size

    threads = start_each(ask_size, [file for file in files if file.size is None], jobs)
    try:
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        client.close()
    return {file.name: found.get(file.name, file.size) for file in files}


def listing_links(page: str, base: str) -> list[str]:
    """Names of the files and folders directly in a listed folder; those of folders end with ``/``.

    Links that lead elsewhere (the parent folder, the sort order, other sites) are left out.

    Args:
        page: HTML.
        base: URL of the page, which ends with ``/``.

    Raises:
        NetworkError: a name within the folder is not safe.
    """
    parser = _Links()
    parser.feed(page)
    parser.close()
    found: dict[str, None] = {}
    for reference in parser.references:
        name = _name_below(reference, base)
        if name:
            found[name] = None
    return list(found)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.references += [value.strip() for name, value in attrs if name == "href" and value]


def _name_below(reference: str, base: str) -> str | None:
    """The name that a link has within the folder; None if it leads elsewhere, or to a manifest."""
    try:
        target = urlsplit(urldefrag(urljoin(base, reference)).url)
    except ValueError:
        return None
    here = urlsplit(base)
    if (target.scheme, target.netloc) != (here.scheme, here.netloc) or target.query:
        return None
    if not target.path.startswith(here.path):
        return None
    encoded = target.path.removeprefix(here.path)
    inner, slash, rest = encoded.partition("/")
    if rest or not inner:
        return None
    name = unquote(inner)
    if "/" in name:
        raise NetworkError(
            f"the listing has a file name with a slash in it: {printable(name)}",
            code="bad_answer",
            where=shown_url(base),
        )
    # A manifest belongs to whoever downloaded the files to that server.
    return None if name == MANIFEST_NAME else safe_name(name) + slash


class _Tree:
    """The folders of one server, one after another."""

    def __init__(self, client: HttpClient, root: str) -> None:
        self._client = client
        self._root = root
        self._files: list[RemoteFile] = []
        self._folders = 0

    def walk(self, depth: int) -> list[RemoteFile]:
        self._folder("", depth)
        return sorted(self._files, key=lambda file: file.name)

    def _folder(self, prefix: str, depth: int) -> None:
        self._folders += 1
        page, base = self._page(self._root + quote(prefix))
        for name in listing_links(page, base):
            whole = prefix + name
            if not name.endswith("/"):
                self._files.append(RemoteFile(safe_name(whole), (self._root + quote(whole),)))
            elif depth > 0:
                self._folder(whole, depth - 1)
            if self._folders > _MOST_FOLDERS or len(self._files) > _MOST_FILES:
                text = f"the listing has more than {_MOST_FILES} files or {_MOST_FOLDERS} folders"
                raise NetworkError(text, code="bad_answer", where=shown_url(self._root))

    def _page(self, url: str) -> tuple[str, str]:
        """The text of a listing, and its address after redirects."""
        options = self._client.options
        failures = 0
        while True:
            try:
                with self._client.get(url) as response:
                    return self._text(response), response.url
            except Trouble as trouble:
                failures += 1
                if not trouble.again or failures >= (options.tries if trouble.reached else options.few_tries):
                    raise NetworkError(
                        f"the list of files cannot be read: {trouble.reason}",
                        code="failed_download",
                        where=shown_url(url),
                        hint=trouble.hint,
                    ) from trouble
                self._client.stop.wait(wait_seconds(trouble, failures, options))

    def _text(self, response: HttpResponse) -> str:
        if not response.is_html:
            raise Trouble("the server sent something other than an HTML listing", again=False)
        text = bytearray()
        for chunk in response.chunks():
            text += chunk
            if len(text) > _MOST_BYTES:
                raise Trouble("the listing is too long", again=False)
        if response.length not in (None, len(text)):
            raise Trouble("the connection ended within the listing", again=True)
        return text.decode("utf-8", "replace")


def _size(file: RemoteFile, client: HttpClient) -> int | None:
    """The size that the first mirror reports; if no mirror responds, None, and no server is asked again."""
    reached = False
    for url in file.urls:
        try:
            with client.head(url) as response:
                reached = True
                if response.status == 200 and response.length is not None and not response.is_html:
                    return response.length
        except Trouble as trouble:
            reached |= trouble.reached
        except Stopped:
            return None
    if not reached:
        client.stop.set()
    return None
