"""From tokens to text: the one loop, for every command and the Python API.

``TextStream`` knows tokens, a decoder and stop texts. ``AnswerLoop`` runs one for each request of an engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.engine import Engine, TokenEvent, nonfinite_output
from neoxrun.engine.sampler import Sampled
from neoxrun.engine.scheduler import FinishReason
from neoxrun.errors import RankError
from neoxrun.tokenizer import StreamDecoder, Tokenizer


class TextStream:
    """The text of one answer, as its tokens come. All the pieces that it returns together are ``text``.

    Args:
        decoder: a fresh one.
        stop: texts that end the answer; empty ones are ignored.
        hidden: tokens that are part of them and that no decoded text shows (special ones), with how they are written.

    Attributes:
        text: the text so far; it ends before the first stop text.
        stopped: whether a stop text has come. Later tokens change nothing.
    """

    def __init__(
        self, decoder: StreamDecoder, stop: Sequence[str] = (), hidden: Mapping[int, str] = MappingProxyType({})
    ) -> None:
        self._decoder, self._hidden = decoder, hidden
        self._stop = [text for text in stop if text]
        # The text as `text` has it, but with the hidden tokens written out, and where they are in it.
        self._spelt = ""
        self._gaps: list[range] = []
        # As many characters at the end of the text may be the start of a stop text.
        self._open = max(map(len, self._stop), default=1) - 1
        self._returned = 0
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add the next token; returns the text that has become certain with it."""
        content = self._hidden.get(token, "")
        if content in self._stop:
            self._extend(self._decoder.flush())
            self.stopped = True
        else:
            self._extend(self._decoder.push(token), content)
        return self._return(len(self.text) - (0 if self.stopped else self._open))

    def finish(self) -> str:
        """There are no more tokens; returns the rest of the text."""
        self._extend(self._decoder.flush())
        return self._return(len(self.text))

    def _extend(self, new: str, content: str = "") -> None:
        """Add decoded text, and after it a hidden token as it is written."""
        if self.stopped:
            return
        start = max(0, len(self.text) - self._open)
        self.text += new
        found = [at for text in self._stop if (at := self.text.find(text, start)) >= 0]
        if self._hidden:
            found += self._find_spelt(new, content)
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True

    def _find_spelt(self, new: str, content: str) -> list[int]:
        """Where in ``text`` those stop texts begin that a hidden token is a part of."""
        start = max(0, len(self._spelt) - self._open)
        self._spelt += new
        if content:
            self._gaps.append(range(len(self._spelt), len(self._spelt) + len(content)))
            self._spelt += content
        found = []
        for text in self._stop:
            at = self._spelt.find(text, start)
            while at >= 0:
                inside = [gap for gap in self._gaps if at < gap.stop and gap.start < at + len(text)]
                # Of each hidden token all or nothing: a part of how it is written means nothing.
                if inside and at <= inside[0].start and inside[-1].stop <= at + len(text):
                    found.append(at - sum(len(gap) for gap in self._gaps if gap.stop <= at))
                at = self._spelt.find(text, at + 1)
        return found

    def _return(self, certain: int) -> str:
        start = self._returned
        self._returned = max(start, certain)
        return self.text[start : self._returned]


@dataclass(frozen=True)
class TextRequest:
    """A request for one answer.

    Attributes:
        request_id: the answer's name; unique among the requests in progress.
        prompt: token ids, at least one; they leave room for one more within the engine's length.
        params: how to sample, and the texts that end the answer.
    """

    request_id: int
    prompt: Sequence[int]
    params: SamplingParams


@dataclass
class Answer:
    """One answer.

    Attributes:
        request_id: of its request.
        stream: its text.
        sampled: its tokens, without the end-of-document token.
        new_text: the text that became certain in the last step.
        finish_reason: why it ended; None while it is in progress.
        error: what ended it, where the network failed on it; it gets no more tokens.
        start: when the engine was given the request, by ``time.perf_counter``.
    """

    request_id: int
    stream: TextStream
    sampled: list[Sampled] = field(default_factory=list)
    new_text: str = ""
    finish_reason: FinishReason | None = None
    error: RankError | None = None
    start: float = field(default_factory=time.perf_counter)

    @property
    def tokens(self) -> list[int]:
        """The ids of its tokens."""
        return [sampled.token for sampled in self.sampled]


class AnswerLoop:
    """Answers requests with an engine, and follows each one's text.

    Args:
        engine: of this process's replica, which this process leads.
        tokenizer: the model's.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self._engine, self._tokenizer = engine, tokenizer
        self._under_way: dict[int, Answer] = {}

    @property
    def engine(self) -> Engine:
        """What computes the tokens."""
        return self._engine

    @property
    def busy(self) -> bool:
        """Whether answers are in progress."""
        return bool(self._under_way)

    def run(self, requests: Iterable[TextRequest]) -> Iterator[list[Answer]]:
        """Answer all ``requests``, each taken when there is room for it.

        Returns:
            After every step, the answers that got a token; those with a ``finish_reason`` for the last time.

        Raises:
            RankError: the network gave a request NaN, or nothing finite.
        """
        waiting = iter(requests)
        exhausted = False
        while not exhausted or self._under_way:
            while not exhausted and self._engine.free_slots > 0:
                request = next(waiting, None)
                if request is None:
                    exhausted = True
                else:
                    self.start(request)
            answers = self.step()
            for answer in answers:
                if answer.error is not None:
                    raise answer.error
            yield answers

    def start(self, request: TextRequest) -> None:
        """Add a request to those in progress."""
        stop = request.params.stop
        stream = TextStream(self._tokenizer.stream(), stop, self._tokenizer.special_ids(stop))
        self._under_way[request.request_id] = Answer(request.request_id, stream)
        self._engine.add(request.request_id, list(request.prompt), request.params)

    def step(self) -> list[Answer]:
        """Compute until tokens are there: the answers that got one; those that ended or failed for the last time."""
        return [self._advance(event) for event in self._engine.advance()]

    def cancel(self, request_id: int) -> Answer | None:
        """End an answer; returns it with its text so far, or None where it has ended or never was."""
        answer = self._under_way.pop(request_id, None)
        if answer is not None:
            self._engine.cancel(request_id)
            answer.new_text = answer.stream.finish()
            answer.finish_reason = "aborted"
        return answer

    def move(self, open_next: Callable[[], Engine]) -> list[Answer]:
        """Continue with another engine, which ``open_next`` opens when this one has given up its requests.

        Returns:
            The answers that got the tokens which were on their way, as ``step`` returns them.
        """
        events, requests = self._engine.hand_over()
        answers = [self._advance(event) for event in events if event.request_id in self._under_way]
        self._engine = open_next()
        self._engine.take_over(request for request in requests if request.request_id in self._under_way)
        return answers

    def abort(self) -> list[Answer]:
        """End every answer in progress; returns these answers, with their texts so far."""
        return [answer for request_id in list(self._under_way) if (answer := self.cancel(request_id)) is not None]

    def _advance(self, event: TokenEvent) -> Answer:
        answer = self._under_way[event.request_id]
        stream, reason = answer.stream, event.finish_reason
        answer.new_text = ""
        if not event.sampled.finite:
            answer.error = nonfinite_output(self._engine.computed_in)
            self._engine.cancel(event.request_id)
            del self._under_way[event.request_id]
            return answer
        if reason != "stop":  # that is the end-of-document token, which is not text
            answer.sampled.append(event.sampled)
            answer.new_text = stream.push(event.sampled.token)
        if reason is not None:
            answer.new_text += stream.finish()
        elif stream.stopped:
            self._engine.cancel(event.request_id)
        answer.finish_reason = "stop" if stream.stopped else reason
        if answer.finish_reason is not None:
            del self._under_way[event.request_id]
        return answer
