"""Which tokens go through the network next. Pure bookkeeping: no tensors.

A step takes one token of every sequence that is past its prompt, and fills what is left of the token budget with chunks
of prompts, in the order in which they came. Steps may be planned before the tokens of the one before are known: such a
token is fed back on the device, and a sequence that turns out to have ended has one token too many computed, which is
dropped. Between pipeline stages tokens travel by way of the leader. There steps of several groups of sequences, or
chunks of prompts, are under way at the same time, one in each stage.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.pages import ROOT, Pages
from neoxrun.engine.steps import Admission, Span, Step

LEAST_GROUP = 64
"""Sequences of a group: a step of fewer takes about as long as one of half as many, since it reads the same weights."""

FinishReason = Literal["length", "stop", "context", "aborted"]


@dataclass(eq=False)
class Request:
    """A request on its way.

    Attributes:
        request_id: the caller's name for it.
        prompt: its token ids, at least one.
        params: how to sample.
        output: tokens that are known.
        unread: tokens that steps under way will choose.
        computed: positions whose keys and values are cached, or will be when the planned steps are done.
        row: in the tables; None while it waits.
        pages: that it has.
        published: how many of its positions others can find.
        link: of the last block of these.
        ended: whether it has ended or was cancelled.
    """

    request_id: int
    prompt: list[int]
    params: SamplingParams
    output: list[int] = field(default_factory=list)
    unread: int = 0
    computed: int = 0
    row: int | None = None
    pages: list[int] = field(default_factory=list)
    published: int = 0
    link: int = ROOT
    ended: bool = False
    stream: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.stream = random.Random(self.params.seed)

    @property
    def ids(self) -> list[int]:
        """All tokens that are known."""
        return self.prompt + self.output

    def ids_from(self, start: int, count: int) -> tuple[int, ...]:
        """The tokens at ``count`` positions from ``start``; none where the first is not known yet."""
        written = start - len(self.prompt)
        if written >= 0:
            return tuple(self.output[written : written + count])
        return tuple((self.prompt[start : start + count] + self.output)[:count])

    @property
    def length(self) -> int:
        """Tokens so far, those that are not read yet included."""
        return len(self.prompt) + len(self.output) + self.unread

    @property
    def missing(self) -> int:
        """Tokens whose keys and values are not cached: 1 where only the newest one is to be computed."""
        return self.length - self.computed


@dataclass(frozen=True)
class Planned:
    """A step, and whose tokens its sampled spans choose, in their order."""

    step: Step
    sampled: Sequence[Request]


class Scheduler:
    """Queue, rows and pages of one replica.

    Args:
        rows: most sequences at a time.
        length: most tokens of a sequence.
        budget: most tokens of a step; at least ``rows``.
        pages: of the cache; enough for one sequence of ``length``.
        ends: the tokens that end a text.
        groups: of sequences, at most. With more than one, a step takes a group's single tokens, and each of them when
            the one before it is known.
    """

    def __init__(
        self, rows: int, length: int, budget: int, pages: Pages, ends: Collection[int], *, groups: int = 1
    ) -> None:
        assert budget >= rows, "every sequence takes a token of each step"
        assert pages.count * pages.size >= length, "one sequence must fit by itself"
        self.length = length
        self._budget, self._pages, self._ends, self._groups = budget, pages, frozenset(ends), groups
        self._free_rows = deque(range(rows))
        self._rows = rows
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []  # in the order of their arrival
        self._requests: dict[int, Request] = {}

    def add(self, request: Request) -> None:
        """Queue a request, which may have been another scheduler's; its tokens are fewer than ``length``."""
        assert 0 < request.length < self.length, "the request does not fit"
        assert request.request_id not in self._requests, "an id that is in use"
        self._requests[request.request_id] = request
        self._waiting.append(request)

    @property
    def free(self) -> int:
        """Rows that neither a running nor a waiting request will take."""
        return self._rows - len(self._running) - len(self._waiting)

    @property
    def rows(self) -> int:
        """Most sequences at a time."""
        return self._rows

    @property
    def busy(self) -> bool:
        """Whether requests have not ended."""
        return bool(self._requests)

    def cancel(self, request_id: int) -> None:
        """End a request, wherever it is; nothing happens where there is none of this id (any more)."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        request.ended = True
        if request.row is None:
            self._waiting.remove(request)
        else:
            self._leave(request)

    def clear(self) -> None:
        """End all requests."""
        for request_id in list(self._requests):
            self.cancel(request_id)

    def give_up(self) -> list[Request]:
        """Every request, oldest first, for another scheduler, which computes them again; no step is under way."""
        requests = [*self._running, *self._waiting]
        for request in list(self._running):
            self._leave(request)
            request.computed = 0
        self._waiting.clear()
        self._requests.clear()
        return requests

    def plan(self) -> Planned | None:
        """The next step; None where nothing can be computed before tokens are read."""
        planned: list[tuple[Request, Span]] = []
        admitted: list[Admission] = []
        copied: list[int] = []  # pages whose contents must stay until the step is done
        # Chunks of prompts share what single tokens leave of the budget.
        left = self._budget - sum(request.missing == 1 for request in self._running)
        singles = max(LEAST_GROUP, -(-len(self._running) // self._groups))
        crowded = False
        # In the order of arrival: only later requests, which are not planned yet, are put back to make room.
        for request in list(self._running):
            if request.row is None:  # put back
                crowded = True
            elif request.missing > 1:
                if left > 0 and (span := self._span(request, left)) is not None:
                    planned.append((request, span))
                    left -= span.count
            elif singles > 0 and self._may_continue(request) and (span := self._span(request, 1)) is not None:
                planned.append((request, span))
                singles -= 1
        while left > 0 and not crowded and (admission := self._admit()) is not None:
            request = self._running[-1]
            span = self._span(request, left)
            assert span is not None, "a request is admitted where its pages are free"
            admitted.append(admission)
            planned.append((request, span))
            left -= span.count
            if admission.copied is not None:
                copied.append(admission.copied[0])
        self._pages.release(copied)
        if not planned:
            return None
        planned.sort(key=lambda pair: pair[1].count > 1)  # stable: single tokens first
        return Planned(
            Step([span for _, span in planned], admitted), [request for request, span in planned if span.sampled]
        )

    def take(self, planned: Planned, tokens: Sequence[int]) -> list[tuple[Request, int, FinishReason | None]]:
        """The tokens that a step chose: for each request that had not ended, its token, and why it ends with it."""
        events: list[tuple[Request, int, FinishReason | None]] = []
        for request, token in zip(planned.sampled, tokens, strict=True):
            if request.ended:
                continue
            request.unread -= 1
            request.output.append(token)
            reason = self._finish_reason(request)
            if reason is not None:
                self.cancel(request.request_id)
            elif request.row is not None:
                self._publish(request)
            events.append((request, token, reason))
        return events

    def _admit(self) -> Admission | None:
        """Give the first waiting request a row; None where it has to wait."""
        if not self._waiting or not self._free_rows or self._waiting[0].unread:
            return None
        request = self._waiting[0]
        ids = request.ids
        found = self._pages.match(ids)
        if -(-len(ids) // self._pages.size) - len(found.pages) > self._pages.available:
            self._pages.release([*found.pages, *([] if found.source is None else [found.source])])
            return None
        self._waiting.popleft()
        self._running.append(request)
        request.row, request.pages, request.computed = self._free_rows.popleft(), list(found.pages), found.positions
        request.published, request.link = 0, ROOT
        copied = None if found.source is None else (found.source, found.positions)
        return Admission(request.row, ids, len(request.output), request.params, found.pages, copied)

    def _span(self, request: Request, most: int) -> Span | None:
        """The next tokens of a running request, ``most`` at the most; None where there is no page for them."""
        assert request.row is not None
        count = min(request.missing, most)
        taken: list[int] = []
        while (len(request.pages) + len(taken)) * self._pages.size < request.computed + count:
            page = self._pages.take()
            if page is not None:
                taken.append(page)
            elif self._running[-1] is not request:
                self._put_back(self._running[-1])
            else:  # what there is has to do
                count = (len(request.pages) + len(taken)) * self._pages.size - request.computed
        request.pages += taken
        if count <= 0:
            return None
        start, ids = request.computed, request.ids_from(request.computed, count)
        request.computed += count
        sampled = request.missing == 0
        draw = 0.0
        if sampled:
            request.unread += 1
            draw = request.stream.random() if request.params.temperature > 0 else 0.0
        self._publish(request)
        return Span(request.row, start, ids, tuple(taken), sampled, draw)

    def _publish(self, request: Request) -> None:
        """Let others find the blocks that are full of known tokens."""
        known = min(request.computed, len(request.prompt) + len(request.output))
        size, block = self._pages.size, self._pages.block
        while request.published + block <= known:
            page = request.pages[request.published // size]
            ids = request.ids_from(request.published, block)
            request.link = self._pages.publish(page, request.link, ids)
            request.published += block

    def _put_back(self, request: Request) -> None:
        """Take a running request's row and pages; it waits in front of the others and is computed again."""
        self._leave(request)
        request.computed = 0
        self._waiting.appendleft(request)

    def _leave(self, request: Request) -> None:
        assert request.row is not None
        self._running.remove(request)
        self._free_rows.append(request.row)
        self._pages.release(request.pages)
        request.row, request.pages = None, []

    def _may_continue(self, request: Request) -> bool:
        """Whether another token is to be chosen now, as far as numbers tell."""
        if self._groups > 1 and request.unread:
            return False
        tokens = len(request.output) + request.unread
        return tokens < request.params.maximum_tokens and request.length < self.length

    def _finish_reason(self, request: Request) -> FinishReason | None:
        if request.output[-1] in self._ends and not request.params.ignore_eos:
            return "stop"
        if len(request.output) >= request.params.maximum_tokens:
            return "length"
        if len(request.prompt) + len(request.output) >= self.length:
            return "context"
        return None
