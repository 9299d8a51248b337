"""The loop of a model that answers requests as they come: the one owner of the engine, on the leader of its replica.

Each turn takes in the messages that have come, computes one step of all texts in progress, and one pass of the scores
that are waiting. What is computed together, and in which order, the engine decides.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue

from neoxrun.engine.engine import Engine, nonfinite_output
from neoxrun.engine.scoring import Row, Scored, scoring_passes
from neoxrun.engine.session import Session
from neoxrun.errors import NeoxrunError, RankError, classify
from neoxrun.generation.answer import Answer, AnswerLoop, TextRequest
from neoxrun.model.dtypes import device_kind
from neoxrun.planning.memory import MAX_BATCH
from neoxrun.serving.messages import (
    Cancel,
    Close,
    Event,
    Failed,
    Finished,
    Message,
    Piece,
    ScoresFound,
    ScoreWork,
    TextWork,
)

_LEAST_LENGTH = 128  # tokens of the first cache: a larger one is made when a request needs it


class EngineLoop:
    """Answers what is asked of a model.

    Args:
        session: the model, on a leader.
        emit: is given the events of each turn.
        batch_size: most texts at a time; None: what fits.

    Attributes:
        inbox: for messages, from any thread.
    """

    def __init__(self, session: Session, emit: Callable[[list[Event]], None], *, batch_size: int | None = None) -> None:
        self.inbox: SimpleQueue[Message] = SimpleQueue()
        self._session, self._emit = session, emit
        self._most = batch_size or MAX_BATCH[device_kind(session.mesh.device)]
        self._texts: AnswerLoop | None = None
        self._waiting: OrderedDict[int, TextWork] = OrderedDict()
        self._longest = 0  # tokens of a text that waits, at the most: it is not searched for at each step
        self._under_way: dict[int, TextWork] = {}
        self._scoring: dict[int, _Scoring] = {}

    @property
    def busy(self) -> bool:
        """Whether work has not ended."""
        return bool(self._waiting or self._under_way or self._scoring)

    def run(self) -> None:
        """Answer messages until ``Close``, or until an error that this rank cannot recover from.

        Raises:
            Exception: it struck in the middle of what several ranks do together, so that they are no longer in step.
        """
        while self._take_in(wait=True):
            self._turn()

    def run_until_idle(self) -> None:
        """Do all the work that has been put in, and close the engine, as ``run`` does it.

        Raises:
            Exception: see ``run``.
        """
        while not self.inbox.empty() or self.busy:
            self._take_in(wait=False)
            self._turn()
        self._close_engine()

    def _take_in(self, *, wait: bool) -> bool:
        """Take the messages that have come, or ``wait`` for one if there is nothing to do; False after ``Close``."""
        while True:
            try:
                message = self.inbox.get(block=wait and not self.busy)
            except Empty:
                return True
            match message:
                case TextWork():
                    self._waiting[message.number] = message
                    self._longest = max(self._longest, self._tokens(message))
                case ScoreWork():
                    self._scoring[message.number] = _Scoring(message)
                case Cancel(number):
                    self._cancel(number)
                case Close():
                    self._end()
                    return False

    def _turn(self) -> None:
        """One step of the texts, and one pass of the scores."""
        try:
            if self._waiting or self._under_way:
                self._emit(self._step())
            if self._scoring:
                self._emit(self._score())
        except Exception as error:
            if self._session.mesh.replica_group is not None and not self._session.replica.in_step:
                raise  # what the other ranks have done of it is not known
            self._fail_all(classify(error, 0))
            self._discard_engine()

    def _step(self) -> list[Event]:
        events: list[Event] = []
        if self._waiting:
            events += self._make_room()
        if self._texts is None:
            return events
        while self._waiting and self._texts.engine.free_slots > 0:
            number, work = self._waiting.popitem(last=False)
            self._under_way[number] = work
            self._texts.start(TextRequest(number, work.prompt, work.params))
        if not self._waiting:
            self._longest = 0
        return [*events, *self._events(self._texts.step())]

    def _make_room(self) -> list[Event]:
        """Have an engine that is large enough for the work, as far as memory allows.

        A larger one takes over the texts of the one before, and computes their tokens once more. There is none where
        none of the texts fits.
        """
        refused: list[Event] = []
        if self._texts is None:
            opened = self._open(0, 0, refused)
            if opened is not None:
                self._texts = AnswerLoop(opened, self._session.tokenizer)
            return refused
        engine = self._texts.engine
        slots, length = engine.slots, engine.length
        if min(self._most, len(self._under_way) + len(self._waiting)) <= slots and self._longest <= length:
            return []

        def open_next() -> Engine:
            opened = self._open(slots, length, refused)
            assert opened is not None, "there was one of this length"
            return opened

        answers = self._texts.move(open_next)
        return [*self._events(answers), *refused]

    def _open(self, least_slots: int, least_length: int, refused: list[Event]) -> Engine | None:
        """An engine for the texts, without those that are too long for the memory, which are added to ``refused``.

        None where no text is left, and ``least_length`` is 0.
        """
        slots = max(least_slots, min(self._most, len(self._under_way) + len(self._waiting)))
        slots, length = _rounded(slots, 1, self._most), self._rounded_length(max(least_length, self._longest))
        while True:
            try:
                engine = self._session.start_engine(requests=slots, length=length, batch_size=self._most)
            except RankError as error:
                for work in [work for work in self._waiting.values() if self._tokens(work) >= length]:
                    del self._waiting[work.number]
                    refused.append(Failed(work.number, error))
                self._longest = max(map(self._tokens, self._waiting.values()), default=0)
                needed = max(least_length, self._longest)
                if needed >= length:
                    raise
                if not needed:
                    return None
                rounded = self._rounded_length(needed)
                length = rounded if rounded < length else needed
            else:
                if engine.slots < slots:  # it is all that fits
                    self._most = engine.slots
                return engine

    def _rounded_length(self, tokens: int) -> int:
        return _rounded(tokens, _LEAST_LENGTH, self._session.max_context)

    def _tokens(self, work: TextWork) -> int:
        return min(len(work.prompt) + work.params.maximum_tokens, self._session.max_context)

    def _events(self, answers: Iterable[Answer]) -> list[Event]:
        events: list[Event] = []
        for answer in answers:
            work = self._under_way[answer.request_id]
            if answer.error is not None:
                events.append(Failed(work.number, answer.error))
            else:
                if work.stream and answer.new_text:
                    events.append(Piece(work.number, answer.new_text))
                if answer.finish_reason is not None:
                    events.append(_finished(answer, answer.finish_reason))
            if answer.error is not None or answer.finish_reason is not None:
                del self._under_way[work.number]
        return events

    def _score(self) -> list[Event]:
        """One pass of the work that has waited longest."""
        scoring = next(iter(self._scoring.values()))
        scores = scoring.advance(self._session)
        if scores is None:
            return []
        number = scoring.work.number
        del self._scoring[number]
        if not all(math.isfinite(one.logprob) for one in scores):
            return [Failed(number, nonfinite_output(self._session.replica.stage.precisions.compute))]
        return [ScoresFound(number, scores)]

    def _cancel(self, number: int) -> None:
        self._scoring.pop(number, None)
        if self._waiting.pop(number, None) is not None:
            self._emit([Finished(number, "", (), "aborted", 0.0)])
        elif number in self._under_way and self._texts is not None:
            answer = self._texts.cancel(number)
            assert answer is not None, "it is in progress"
            self._emit(self._events([answer]))

    def _end(self) -> None:
        """End all work: of texts with what there is of them."""
        for number in [*self._under_way, *self._waiting]:
            self._cancel(number)
        self._close_engine()

    def _fail_all(self, failure: NeoxrunError) -> None:
        numbers = [*self._under_way, *self._waiting, *self._scoring]
        self._under_way.clear()
        self._waiting.clear()
        self._scoring.clear()
        self._emit([Failed(number, failure) for number in numbers])

    def _close_engine(self) -> None:
        if self._texts is not None:
            self._texts.engine.close()
            self._texts = None

    def _discard_engine(self) -> None:
        """After a failure in the middle of a step: nothing of the engine and its cache is used again."""
        if self._session.mesh.replica_group is not None:
            self._close_engine()  # tokens that other ranks have sent would be taken for those of the next step
        self._texts = None
        self._session.replica.free_cache()


class _Scoring:
    """Scores that are being computed, a pass at a time."""

    def __init__(self, work: ScoreWork) -> None:
        self.work = work
        self._budget = 0
        self._left: list[int] = []
        self._passes: Iterator[tuple[list[int], list[Row]]] = iter(())
        self._found: dict[int, Scored] = {}

    def advance(self, session: Session) -> list[Scored] | None:
        """Compute the next pass; the scores, once all are known."""
        requests = self.work.requests
        if self._budget != session.scoring_budget():  # at first, and when an engine's cache has come or gone
            self._budget = session.scoring_budget()
            self._left = [number for number in range(len(requests)) if number not in self._found]
            self._passes = scoring_passes([requests[number] for number in self._left], self._budget)
        numbers, rows = next(self._passes)
        scores = session.replica.score(rows, self.work.top)
        self._found |= zip((self._left[number] for number in numbers), scores, strict=True)
        return [self._found[number] for number in range(len(requests))] if len(self._found) == len(requests) else None


def _finished(answer: Answer, reason: str) -> Finished:
    seconds = round(time.perf_counter() - answer.start, 6)
    return Finished(answer.request_id, answer.stream.text, answer.sampled, reason, seconds)


def _rounded(count: int, least: int, most: int) -> int:
    """The next power of two, so that an engine seldom has to be followed by a larger one."""
    return min(most, max(least, 1 << (count - 1).bit_length()))
