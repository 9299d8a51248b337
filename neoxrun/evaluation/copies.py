"""The copies of the model at work: rank 0 hands out requests, every copy's leader carries some of them out.

The ranks that lead no copy run ``engine.follow`` meanwhile. What travels between the leaders is JSON: the store that
carries it listens on the network and knows no passwords.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import IO, Any

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.engine import Engine, Scorer, follow
from neoxrun.engine.scoring import Row, ScoreRequest, scoring_passes
from neoxrun.engine.session import Session
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.queue import WorkQueue
from neoxrun.planning.memory import MAX_BATCH
from neoxrun.tokenizer import StreamDecoder

_POLL_SECONDS = 0.02

Answers = list[tuple[int, Any]]
"""Numbers of requests, and an answer to each, made of JSON values."""
Piece = tuple[list[int], Sequence[Any]]
"""What one copy carries out at a time: numbers of requests, and the rows or the one request that answer them."""


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
        count: how many pieces of work there are.
        slots, length: of the cache, to generate.
    """

    kind: str
    count: int
    slots: int = 0
    length: int = 0


@dataclass
class _Running:
    """A text that is being generated."""

    stops: list[str]
    decoder: StreamDecoder
    tokens: list[int] = field(default_factory=list)
    tail: str = ""

    def push(self, token: int) -> bool:
        """Take one more token; whether a stop text is now there."""
        self.tokens.append(token)
        text = self.tail + self.decoder.push(token)
        reach = max(map(len, self.stops), default=1) - 1
        self.tail = text[-reach:] if reach else ""
        return any(stop in text for stop in self.stops)


def take_part(
    session: Session, options: None, stdout: IO[str], show_progress: bool, announce: Callable[[], None]
) -> None:
    """What every rank but 0 does in an evaluation; rank 0 has the options, the output and the say."""
    batch_size = meshes.share_from_first(None)
    if session.mesh.leads:
        Copies(session, batch_size).serve()
    else:
        follow(session.runner)


class Copies:
    """All copies of the model, from one of their leaders.

    Rank 0 calls ``score`` and ``generate``, and ``close`` at the end; the other leaders call ``serve``.

    Args:
        session: this rank's part of the model.
        batch_size: most sequences at a time in each copy; None: what fits.
    """

    def __init__(self, session: Session, batch_size: int | None = None) -> None:
        self._session, self._batch_size = session, batch_size
        self._scorer = Scorer(session.runner)
        # A lone copy shares its work with nobody.
        self._store = session.mesh.store if session.mesh.replicas > 1 else None
        self._rounds = 0

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Answers]:
        """Log-probability and ``is_greedy`` of each request, as they are computed: long sequences first."""
        work = list(scoring_passes(requests, self._session.scoring_tokens, self._batch_size))
        return self._lead(_Round("score", len(work)), work)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Answers]:
        """The text of each request, as they end; what follows a stop text may still be there."""
        # Long prompts first, so that short ones fill up what is free at the end.
        numbers = sorted(range(len(requests)), key=lambda number: -len(requests[number].prompt))
        cuda = self._session.mesh.device.type == "cuda"
        round_ = _Round(
            "generate",
            len(requests),
            slots=min(self._batch_size or MAX_BATCH["cuda" if cuda else "cpu"], len(requests)),
            length=max(len(request.prompt) + request.params.maximum_tokens for request in requests),
        )
        return self._lead(round_, [([number], [requests[number]]) for number in numbers])

    def close(self) -> None:
        """Let all other ranks go."""
        self._announce(None)
        self._scorer.close()

    def serve(self) -> None:
        """Work on what rank 0 hands out, until it closes."""
        while (round_ := self._next_round()) is not None:
            queue = WorkQueue(self._session.mesh, round_.count, self._name)
            for answers in self._carry_out(round_, (self._fetch(round_.kind, place) for place in queue.claims())):
                queue.publish(answers)
            queue.close(interrupted=False)
        self._scorer.close()

    @property
    def _name(self) -> str:
        return f"evaluate/{self._rounds}"

    def _lead(self, round_: _Round, work: Sequence[Piece]) -> Iterator[Answers]:
        self._announce(round_, work)
        queue = WorkQueue(self._session.mesh, len(work), self._name)
        for answers in self._carry_out(round_, (self._take(work, place) for place in queue.claims())):
            yield answers
            yield from queue.collect()
        while queue.others_working:
            yield from queue.collect()
            time.sleep(_POLL_SECONDS)

    def _announce(self, round_: _Round | None, work: Sequence[Piece] = ()) -> None:
        """Tell the other leaders what comes next. Each piece of work is a value of its own: one may have 8 MB."""
        self._rounds += 1
        if self._store is not None:
            self._store.set(self._name, json.dumps(None if round_ is None else asdict(round_)))
            for place, (numbers, parts) in enumerate(work):
                self._store.set(self._key(place), json.dumps([numbers, [astuple(part) for part in parts]]))

    def _key(self, place: int) -> str:
        return f"{self._name}/piece/{place}"

    def _take(self, work: Sequence[Piece], place: int) -> Piece:
        """A piece for rank 0 itself."""
        if self._store is not None:
            self._store.delete_key(self._key(place))
        return work[place]

    def _next_round(self) -> _Round | None:
        assert self._store is not None, "a lone copy has nobody to serve"
        self._rounds += 1
        while not self._store.check([self._name]):
            time.sleep(_POLL_SECONDS)
        values = json.loads(self._store.get(self._name))
        return None if values is None else _Round(**values)

    def _fetch(self, kind: str, place: int) -> Piece:
        assert self._store is not None
        numbers, work = json.loads(self._store.get(self._key(place)))  # waits until it is there
        self._store.delete_key(self._key(place))
        if kind == "score":
            return numbers, [Row(*fields) for fields in work]
        return numbers, [GenerateRequest(tuple(prompt), tuple(sampling)) for prompt, sampling in work]

    def _carry_out(self, round_: _Round, work: Iterator[Piece]) -> Iterator[Answers]:
        if round_.kind == "score":
            return self._score(work)
        return self._generate(work, round_.slots, round_.length)

    def _score(self, work: Iterator[Piece]) -> Iterator[Answers]:
        for numbers, rows in work:
            scores = self._scorer.score(list(rows))
            yield [(number, (one.logprob, one.greedy)) for number, one in zip(numbers, scores, strict=True)]

    def _generate(self, work: Iterator[Piece], slots: int, length: int) -> Iterator[Answers]:
        tokenizer = self._session.tokenizer
        engine = Engine(self._session.runner, slots=slots, length=length, eos=tokenizer.eod)
        running: dict[int, _Running] = {}
        exhausted = False
        while running or not exhausted:
            while not exhausted and engine.free > 0:
                piece = next(work, None)
                if piece is None:
                    exhausted = True
                    break
                [number], [request] = piece
                params = request.params
                engine.add(number, list(request.prompt), params)
                running[number] = _Running([stop for stop in params.stop if stop], tokenizer.stream())
            ended: Answers = []
            for event in engine.step():
                answer = running[event.request_id]
                stopped = event.finish_reason != "stop" and answer.push(event.sampled.token)
                if stopped and event.finish_reason is None:
                    engine.drop(event.request_id)
                if stopped or event.finish_reason is not None:
                    del running[event.request_id]
                    ended.append((event.request_id, tokenizer.decode(answer.tokens)))
            yield ended
