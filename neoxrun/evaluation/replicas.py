"""The replicas of the model at work: rank 0 hands out requests, and the leaders of the replicas share them.

The ranks that lead no replica follow meanwhile. What travels between the leaders is JSON: the store that carries it
listens on the network and knows no passwords.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import IO, Any

from torch.distributed.distributed_c10d import Store

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.scoring import Row, Scored, ScoreRequest, scoring_passes
from neoxrun.engine.session import Session
from neoxrun.generation.answer import AnswerLoop, TextRequest
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.queue import WorkQueue

_POLL_SECONDS = 0.02
_AHEAD_BYTES = 2**24

Results = list[tuple[int, Any]]
"""Numbers of requests, and each one's answer, made of JSON values."""
WorkItem = tuple[list[int], Sequence[Any]]
"""What one replica carries out at a time: numbers of requests, and the rows or the one request that answer them."""


@dataclass(frozen=True)
class GenerateRequest:
    """Continue ``prompt``.

    Attributes:
        prompt: token ids, at least one.
        sampling: fields of SamplingParams and their values; with ``stop``, the answer ends with one of these texts.
    """

    prompt: tuple[int, ...]
    sampling: tuple[tuple[str, Any], ...]

    @property
    def params(self) -> SamplingParams:
        """How to sample."""
        values = dict(self.sampling)
        return SamplingParams(**values | {"stop": tuple(values.get("stop", ()))})


@dataclass(frozen=True)
class _Round:
    """One call of rank 0, as the other leaders see it.

    Attributes:
        kind: ``score`` or ``generate``.
        count: how many items of work there are.
        length: most tokens of a sequence, to generate.
        top: to score, see ``Replica.score``.
    """

    kind: str
    count: int
    length: int = 0
    top: int | None = None


class _Stock:
    """The work of a round that is in the store, on rank 0: what has been claimed, and a little more.

    Each item is a separate value of the store, since one may have 8 MB.

    Args:
        store: that all leaders share; None if there is no other leader.
        queue: of the items' numbers.
        work: the items.
        name: of the round.
        ahead: items that are in the store before they are claimed; more of them while they are small.
    """

    def __init__(self, store: Store | None, queue: WorkQueue, work: Sequence[WorkItem], name: str, ahead: int) -> None:
        self._store, self._queue, self._work, self._name, self._ahead = store, queue, work, name, ahead
        self._sizes: dict[int, int] = {}  # of the items that were put there, and perhaps not claimed yet
        self._own: set[int] = set()  # claimed by rank 0 itself before they were put there
        self._next = 0

    def fill(self) -> None:
        """Put into the store what the other leaders have claimed or will soon claim."""
        if self._store is None or self._next == len(self._work):
            return
        claimed = self._queue.claimed
        self._sizes = {index: size for index, size in self._sizes.items() if index >= claimed}
        waiting = sum(self._sizes.values())
        while self._next < len(self._work) and (self._next < claimed + self._ahead or waiting < _AHEAD_BYTES):
            if self._next not in self._own:
                numbers, parts = self._work[self._next]
                value = json.dumps([numbers, [astuple(part) for part in parts]])
                self._store.set(_item_key(self._name, self._next), value)
                self._sizes[self._next] = len(value)
                waiting += len(value)
            self._next += 1

    def take(self, index: int) -> WorkItem:
        """An item that rank 0 itself has claimed."""
        if self._store is not None:
            if index < self._next:
                self._store.delete_key(_item_key(self._name, index))
            else:
                self._own.add(index)
            self.fill()
        return self._work[index]


def _item_key(name: str, index: int) -> str:
    return f"{name}/item/{index}"


def take_part(
    session: Session, options: None, stdout: IO[str], show_progress: bool, announce: Callable[[], None]
) -> None:
    """The work of every rank but 0 in an evaluation; rank 0 has the options and the output, and leads."""
    batch_size = meshes.share_from_first(None)
    if session.mesh.leads:
        Replicas(session, batch_size).serve()
    else:
        session.replica.follow()


class Replicas:
    """All replicas of the model, from one of their leaders.

    Rank 0 calls ``score`` and ``generate``, and ``release_ranks`` at the end; the other leaders call ``serve``.

    Args:
        session: this rank's part of the model.
        batch_size: most sequences at a time in each replica; None: what fits.
    """

    def __init__(self, session: Session, batch_size: int | None = None) -> None:
        self._session, self._batch_size = session, batch_size
        # A single replica does not share its work.
        self._store = session.mesh.store if session.mesh.replicas > 1 else None
        self._rounds = 0

    def score(self, requests: Sequence[ScoreRequest], top: int | None = None) -> Iterator[Results]:
        """Log-probability and ``is_greedy`` of each request, as they are computed: long sequences first.

        With ``top``, the fields of its ``TokenScores`` instead, with this many alternatives to each token.
        """
        work = list(scoring_passes(requests, self._session.scoring_budget(), self._batch_size))
        return self._lead(_Round("score", len(work), top=top), work)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Results]:
        """The text of each request, as they end. It has the stop text that ended it, and what came with that."""
        # Long prompts first, so that short ones fill up what is free at the end.
        numbers = sorted(range(len(requests)), key=lambda number: -len(requests[number].prompt))
        length = max(len(request.prompt) + request.params.maximum_tokens for request in requests)
        work = [([number], [requests[number]]) for number in numbers]
        return self._lead(_Round("generate", len(work), length), work)

    def release_ranks(self) -> None:
        """Let all other ranks return from ``take_part``."""
        self._announce(None)
        self._session.replica.release_followers()

    def serve(self) -> None:
        """Work on what rank 0 hands out, until it releases the ranks."""
        while (round_ := self._wait_for_round()) is not None:
            queue = WorkQueue(self._session.mesh, round_.count, self._name)
            for results in self._carry_out(round_, (self._fetch(round_.kind, index) for index in queue.claim_all())):
                queue.publish(results)
            queue.close(interrupted=False)
        self._session.replica.release_followers()

    @property
    def _name(self) -> str:
        return f"evaluate/{self._rounds}"

    def _lead(self, round_: _Round, work: Sequence[WorkItem]) -> Iterator[Results]:
        self._announce(round_)
        queue = WorkQueue(self._session.mesh, len(work), self._name)
        stock = _Stock(self._store, queue, work, self._name, 2 * self._session.mesh.replicas)
        for results in self._carry_out(round_, map(stock.take, queue.claim_all())):
            yield results
            stock.fill()
            yield from queue.collect()
        while queue.others_working:
            stock.fill()
            yield from queue.collect()
            time.sleep(_POLL_SECONDS)

    def _announce(self, round_: _Round | None) -> None:
        """Tell the other leaders what comes next."""
        self._rounds += 1
        if self._store is not None:
            self._store.set(self._name, json.dumps(None if round_ is None else asdict(round_)))

    def _wait_for_round(self) -> _Round | None:
        assert self._store is not None, "a lone replica has nobody to serve"
        self._rounds += 1
        while not self._store.check([self._name]):
            time.sleep(_POLL_SECONDS)
        values = json.loads(self._store.get(self._name))
        return None if values is None else _Round(**values)

    def _fetch(self, kind: str, index: int) -> WorkItem:
        assert self._store is not None
        key = _item_key(self._name, index)
        numbers, work = json.loads(self._store.get(key))  # waits until rank 0 has put it there
        self._store.delete_key(key)
        if kind == "score":
            return numbers, [Row(*fields) for fields in work]
        return numbers, [GenerateRequest(tuple(prompt), tuple(sampling)) for prompt, sampling in work]

    def _carry_out(self, round_: _Round, work: Iterator[WorkItem]) -> Iterator[Results]:
        return self._score(work, round_.top) if round_.kind == "score" else self._generate(work, round_)

    def _score(self, work: Iterator[WorkItem], top: int | None) -> Iterator[Results]:
        for numbers, rows in work:
            scores = self._session.replica.score(list(rows), top)
            yield [(number, _values(one)) for number, one in zip(numbers, scores, strict=True)]

    def _generate(self, work: Iterator[WorkItem], round_: _Round) -> Iterator[Results]:
        session = self._session
        engine = session.start_engine(requests=round_.count, length=round_.length, batch_size=self._batch_size)
        requests = (TextRequest(number, request.prompt, request.params) for [number], [request] in work)
        for answers in AnswerLoop(engine, session.tokenizer).run(requests):
            # All tokens as text: lm-eval cuts it at the stop texts by its own rule.
            yield [
                (answer.request_id, session.tokenizer.decode(answer.tokens))
                for answer in answers
                if answer.finish_reason is not None
            ]
        engine.close()
        session.replica.free_cache()  # scoring has its memory again


def _values(score: Scored) -> tuple[Any, ...]:
    if (tokens := score.tokens) is None:
        return score.logprob, score.greedy
    return tokens.logprobs, tokens.top_ids, tokens.top_logprobs
