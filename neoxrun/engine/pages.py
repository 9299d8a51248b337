"""The pages of the key-value cache: who has which, and which hold the beginning of what. Pure bookkeeping, no tensors.

A page holds the keys and values of ``size`` consecutive positions of a sequence. A full page is published under its ids
and the page before it, so that another sequence that begins alike takes it as it is. Pages that nobody uses keep their
contents until they are needed for something else, least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

ROOT = 0
"""What precedes the first page of every sequence."""


class Pages:
    """All pages of one replica; every rank of it has the same ones.

    Args:
        count: how many there are.
        size: positions of each.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._free = deque(range(count))
        self._users = [0] * count
        self._links: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}  # what precedes and ids -> page and link
        self._published: dict[int, tuple[int, tuple[int, ...]]] = {}  # page -> its key in _links
        self._idle: OrderedDict[int, None] = OrderedDict()  # published, and used by nobody
        self._last_link = ROOT

    @property
    def available(self) -> int:
        """How many pages ``take`` would give."""
        return len(self._free) + len(self._idle)

    def match(self, ids: Sequence[int]) -> tuple[list[int], int]:
        """Published pages that hold the beginning of ``ids``, all but its last token at the most, now used once more.

        Returns:
            The pages, and the link under which the next one is to be published.
        """
        pages: list[int] = []
        link = ROOT
        for start in range(0, len(ids) - self.size, self.size):
            found = self._links.get((link, tuple(ids[start : start + self.size])))
            if found is None:
                break
            page, link = found
            pages.append(page)
        for page in pages:
            self._users[page] += 1
            self._idle.pop(page, None)
        return pages, link

    def take(self) -> int | None:
        """A page for new contents; None where all are in use."""
        if self._free:
            page = self._free.popleft()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            del self._links[self._published.pop(page)]
        else:
            return None
        self._users[page] = 1
        return page

    def publish(self, page: int, link: int, ids: Sequence[int]) -> int:
        """Let others find a page that is full, or will be by the time that they read it.

        Args:
            page: in use by the caller.
            link: of the page before it, or ``ROOT``.
            ids: the tokens of its positions.

        Returns:
            Its own link. Where the same contents are published already, it is that page's.
        """
        key = (link, tuple(ids))
        if key in self._links:
            return self._links[key][1]
        self._last_link += 1
        self._links[key] = (page, self._last_link)
        self._published[page] = key
        return self._last_link

    def release(self, pages: Sequence[int]) -> None:
        """Give up a sequence's pages, in their order. Later ones are the first to be taken for something else."""
        for page in reversed(pages):
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._published:
                self._idle[page] = None
            else:
                self._free.append(page)
