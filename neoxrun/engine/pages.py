"""The pages of the key-value cache: who has which, and which hold the beginning of what. Pure bookkeeping, no tensors.

A page holds the keys and values of ``size`` consecutive positions of a sequence. A block of it is published under its
ids and the block before it. Where a block is a page, another sequence that begins alike takes the page as it is. Where
a page has several blocks, it is as long as a sequence may be, and what sequences share is copied once. Pages that
nobody uses keep their contents until they are needed for something else, least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

ROOT = 0
"""What precedes the first block of every sequence."""

_Key = tuple[int, tuple[int, ...]]  # the link of the block before, and ids


@dataclass(frozen=True)
class Beginning:
    """What is cached of the beginning of a sequence. Its pages and its source are now used once more.

    Attributes:
        positions: how many are cached.
        pages: that the sequence has from now on; they hold them.
        source: where there are no such pages, the page from which the positions are to be copied; the caller releases
            it when that is planned.
    """

    positions: int = 0
    pages: tuple[int, ...] = ()
    source: int | None = None


class Pages:
    """All pages of one replica; every rank of it has the same ones.

    Args:
        count: how many there are.
        size: positions of each.
        block: positions that are published together. None: a page; fewer only where every sequence fits into one page.
    """

    def __init__(self, count: int, size: int, block: int | None = None) -> None:
        self.count, self.size, self.block = count, size, block or size
        self._free = deque(range(count))
        self._users = [0] * count
        self._links: dict[_Key, tuple[int, list[int]]] = {}  # -> link, and the pages that hold the block
        self._published: dict[int, list[_Key]] = {}  # page -> its keys in _links
        self._idle: OrderedDict[int, None] = OrderedDict()  # published, and used by nobody
        self._last_link = ROOT

    @property
    def available(self) -> int:
        """How many pages ``take`` would give."""
        return len(self._free) + len(self._idle)

    def match(self, ids: Sequence[int]) -> Beginning:
        """What is cached of the beginning of ``ids``, all but its last token at the most."""
        holders: list[list[int]] = []
        link = ROOT
        for start in range(0, len(ids) - self.block, self.block):
            found = self._links.get((link, tuple(ids[start : start + self.block])))
            if found is None:
                break
            link = found[0]
            holders.append(found[1])
        if not holders:
            return Beginning()
        positions = len(holders) * self.block
        if self.block == self.size:
            pages = tuple(pages[0] for pages in holders)
            for page in pages:
                self._use(page)
            return Beginning(positions, pages)
        source = next((page for page in holders[-1] if self._users[page]), holders[-1][0])
        alone = not self._users[source] and self.available == 1
        self._use(source)
        if alone:  # there is no other page to copy to
            self._forget(source)
            return Beginning(positions, (source,))
        return Beginning(positions, source=source)

    def take(self) -> int | None:
        """A page for new contents; None where all are in use."""
        if self._free:
            page = self._free.popleft()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            self._forget(page)
        else:
            return None
        self._users[page] = 1
        return page

    def publish(self, page: int, link: int, ids: Sequence[int]) -> int:
        """Let others find a block that is full, or will be by the time that they read it.

        Args:
            page: in use by the caller.
            link: of the block before it, or ``ROOT``.
            ids: the tokens of its positions.

        Returns:
            Its own link, which is the same for all blocks of the same contents.
        """
        key = (link, tuple(ids))
        if key not in self._links:
            self._last_link += 1
            self._links[key] = (self._last_link, [])
        own, holders = self._links[key]
        if not holders or self.block < self.size:
            holders.append(page)
            self._published.setdefault(page, []).append(key)
        return own

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

    def _use(self, page: int) -> None:
        self._users[page] += 1
        self._idle.pop(page, None)

    def _forget(self, page: int) -> None:
        """Let nobody find the page's blocks any more."""
        for key in self._published.pop(page):
            holders = self._links[key][1]
            holders.remove(page)
            if not holders:
                del self._links[key]
