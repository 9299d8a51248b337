"""Prompts in, records out: the loop of ``answer``, with each answer turned into a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count

from neoxrun.engine.engine import Engine
from neoxrun.engine.sampler import Sampled
from neoxrun.engine.session import Session
from neoxrun.generation.answer import Answer, AnswerLoop, TextRequest
from neoxrun.generation.encoding import EncodedPrompt, PromptEncoder
from neoxrun.generation.options import Truncate
from neoxrun.generation.records import Notice, Record
from neoxrun.tokenizer import Tokenizer


class TextGenerator:
    """Answers prompts with an engine.

    Args:
        engine: of this process's replica, which this process leads.
        tokenizer: the model's.
        weights: ``random`` marks every record.

    Attributes:
        tokens: how many have been generated.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, *, weights: str | None = None) -> None:
        self._loop = AnswerLoop(engine, tokenizer)
        self._engine, self._tokenizer, self._weights = engine, tokenizer, weights
        self._under_way: dict[int, EncodedPrompt] = {}
        self._ids = count()
        self._counted: dict[int, int] = {}
        self.tokens = 0

    def run(
        self, prompts: Iterable[EncodedPrompt], on_text: Callable[[str], None] | None = None
    ) -> Iterator[list[Record]]:
        """Answer all ``prompts``, each taken when there is room for it.

        Args:
            prompts: including those that cannot be answered; their records say why.
            on_text: called with the new text of every answer as it becomes certain.

        Returns:
            After every step, the records of the answers that it ended.
        """
        refused: list[Record] = []
        for answers in self._loop.run(self._requests_for(prompts, refused)):
            self._count(answers)
            records = [*refused, *self._records(answers, on_text)]
            refused.clear()
            yield records

    def abort(self, on_text: Callable[[str], None] | None = None) -> list[Record]:
        """End every answer in progress; returns their records, with the texts so far.

        Args:
            on_text: called with the text that was held back.
        """
        return self._records(self._loop.abort(), on_text)

    def _count(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self.tokens += len(answer.sampled) - self._counted.pop(answer.request_id, 0)
            if answer.finish_reason is None:
                self._counted[answer.request_id] = len(answer.sampled)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _requests_for(self, prompts: Iterable[EncodedPrompt], refused: list[Record]) -> Iterator[TextRequest]:
        """The requests of the prompts that can be answered; the records of the others are added to ``refused``."""
        for encoded in prompts:
            if not encoded.ids:
                refused.append(refusal_record(encoded, self._weights))
                continue
            request_id = next(self._ids)
            self._under_way[request_id] = encoded
            yield TextRequest(request_id, encoded.ids, encoded.prompt.params)

    def _records(self, answers: Iterable[Answer], on_text: Callable[[str], None] | None) -> list[Record]:
        records = []
        for answer in answers:
            if on_text is not None:
                on_text(answer.new_text)
            if answer.finish_reason is not None:
                records.append(self._record(answer, answer.finish_reason))
        return records

    def _record(self, answer: Answer, reason: str) -> Record:
        encoded = self._under_way.pop(answer.request_id)
        seconds = round(time.perf_counter() - answer.start, 6)
        return answer_record(
            encoded, answer.stream.text, answer.sampled, reason, seconds, self._tokenizer.vocab_size, self._weights
        )


def answer_record(
    encoded: EncodedPrompt,
    text: str,
    sampled: Sequence[Sampled],
    reason: str,
    seconds: float,
    known_ids: int,
    weights: str | None,
) -> Record:
    """The record of an answer.

    Args:
        encoded: its prompt.
        text, sampled, reason, seconds: of the answer, as ``Record`` has them.
        known_ids: entries of the tokenizer's vocabulary.
        weights: as in ``Record``.
    """
    prompt, tokens = encoded.prompt, [one.token for one in sampled]
    notice = encoded.notice
    unknown = next((token for token in tokens if token >= known_ids), None)
    if unknown is not None and notice is None and weights is None:
        notice = Notice("unknown_token", f"the model generated id {unknown}, which the tokenizer does not have")
    wanted = prompt.params.logprobs is not None
    return Record(
        id=prompt.id,
        sample=prompt.sample,
        context=prompt.context,
        text=text,
        length=len(tokens),
        finished=reason == "stop",
        finish_reason=reason,
        message=None if notice is None else notice.message,
        code=None if notice is None else notice.code,
        duration_seconds=seconds,
        tokens=tokens if wanted else None,
        logprobs=[_logprobs(one) for one in sampled] if wanted else None,
        weights=weights,
        extra=prompt.extra,
    )


def refusal_record(encoded: EncodedPrompt, weights: str | None) -> Record:
    """The record of a prompt that cannot be answered."""
    assert encoded.notice is not None, "a prompt without ids says why"
    return Record(
        id=encoded.prompt.id,
        sample=encoded.prompt.sample,
        context=encoded.prompt.context,
        text=None,
        length=0,
        finished=False,
        finish_reason="error",
        message=encoded.notice.message,
        code=encoded.notice.code,
        duration_seconds=0.0,
        weights=weights,
        extra=encoded.prompt.extra,
    )


def prompt_encoder(session: Session, truncate: Truncate | None) -> PromptEncoder:
    """An encoder for the session's model; see ``PromptEncoder``."""
    return PromptEncoder(
        session.tokenizer,
        vocab_size=session.replica.stage.vocab_size,
        max_context=session.max_context,
        truncate=truncate,
    )


def start_generator(session: Session, prompts: Sequence[EncodedPrompt], batch_size: int | None) -> TextGenerator:
    """A generator whose engine is just large enough for ``prompts``, on a leader.

    Args:
        session: this rank's part of the model.
        prompts: at least one.
        batch_size: most prompts at a time; None: what fits.

    Raises:
        RankError: not even one sequence fits the memory.
    """
    longest = max(len(encoded.ids) + encoded.prompt.params.maximum_tokens for encoded in prompts)
    engine = session.start_engine(requests=len(prompts), length=longest, batch_size=batch_size)
    return TextGenerator(engine, session.tokenizer, weights=session.weights)


def _logprobs(sampled: Sampled) -> dict[str, object]:
    return {"token": sampled.token, "logprob": sampled.logprob, "top": [list(pair) for pair in sampled.top]}
