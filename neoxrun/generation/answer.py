"""Text in, text out, around the engine: encoding, stop strings, streaming and records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from neoxrun.engine.engine import Engine, TokenEvent
from neoxrun.engine.sampler import Sampled
from neoxrun.generation.options import Truncate
from neoxrun.generation.prompts import Prompt
from neoxrun.generation.records import Record
from neoxrun.tokenizer import StreamDecoder, Tokenizer


@dataclass
class _Answer:
    prompt: Prompt
    decoder: StreamDecoder
    start: float
    message: str | None
    text: str = ""
    shown: int = 0
    sampled: list[Sampled] = field(default_factory=list)


class TextGenerator:
    """Answers prompts with an engine.

    Args:
        engine: of this process's model copy; this is its leader.
        tokenizer: the model's.
        vocab_size: rows of the model's vocabulary.
        truncate: which side of a prompt too long for the context is cut off; None makes it an error.
        weights: ``random`` marks every record.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        truncate: Truncate | None = None,
        weights: str | None = None,
    ) -> None:
        self._engine, self._tokenizer, self._vocab_size = engine, tokenizer, vocab_size
        self._truncate, self._weights = truncate, weights
        self._active: dict[int, _Answer] = {}
        self._added = 0

    @property
    def wants_more(self) -> bool:
        """Whether another prompt would start at once."""
        return self._engine.free > 0

    @property
    def busy(self) -> bool:
        """Whether answers are under way."""
        return bool(self._active)

    def add(self, prompt: Prompt) -> Record | None:
        """Start an answer; a prompt that cannot be answered gives its record at once."""
        start = time.perf_counter()
        ids, message = self._encode(prompt)
        if ids is None:
            return self._failed(prompt, message or "", start)
        self._engine.add(self._added, ids, prompt.params)
        self._active[self._added] = _Answer(prompt, self._tokenizer.stream(), start, message)
        self._added += 1
        return None

    def step(self, on_text: Callable[[str], None] | None = None) -> list[Record]:
        """One step of the engine: the records of the answers that it ended.

        Args:
            on_text: is given the new text of every answer as it becomes certain.
        """
        records = []
        for event in self._engine.step():
            record = self._take(event, on_text)
            if record is not None:
                records.append(record)
        return records

    def abort(self, on_text: Callable[[str], None] | None = None) -> list[Record]:
        """End every answer under way: their records, with what there is of the text.

        Args:
            on_text: is given the text that was held back.
        """
        records = []
        for number, answer in list(self._active.items()):
            self._engine.drop(number)
            answer.text += answer.decoder.flush()
            if on_text is not None:
                on_text(answer.text[answer.shown :])
            records.append(self._record(number, "aborted"))
        return records

    def run(self, prompts: Iterable[Prompt]) -> Iterator[list[Record]]:
        """Answer all ``prompts``, each taken when there is room for it: after every step, the records it ended."""
        waiting = iter(prompts)
        exhausted = False
        while not exhausted or self.busy:
            failed: list[Record] = []
            while not exhausted and self.wants_more:
                prompt = next(waiting, None)
                if prompt is None:
                    exhausted = True
                elif (record := self.add(prompt)) is not None:
                    failed.append(record)
            yield failed + self.step()

    def _encode(self, prompt: Prompt) -> tuple[list[int] | None, str | None]:
        """Token ids, and a message where something is to be said; no ids where the prompt cannot be answered."""
        ids = self._tokenizer.encode(prompt.context)
        if not ids:
            # As in GPT-NeoX: text without a context begins after an end-of-document token.
            if self._tokenizer.eod is None:
                return None, "the tokenizer has no <|endoftext|>, which an empty prompt begins with"
            ids = [self._tokenizer.eod]
        wrong = next((i for i in ids if i >= self._vocab_size), None)
        if wrong is not None:
            return None, f"the tokenizer gives id {wrong}, but the model has {self._vocab_size} ids"
        bias = next((i for i in prompt.params.logit_bias if not 0 <= i < self._vocab_size), None)
        if bias is not None:
            return None, f"logit_bias names id {bias}, but the model has ids 0 to {self._vocab_size - 1}"
        longest = self._engine.length
        if len(ids) < longest:
            return ids, None
        if self._truncate is None:
            return None, f"the prompt has {len(ids)} tokens; the context holds {longest}, the answer included"
        # Room for the whole answer, but never at the price of more than half the context.
        keep = max(longest // 2, longest - prompt.params.maximum_tokens)
        cut = ids[-keep:] if self._truncate == "left" else ids[:keep]
        return cut, f"the prompt was cut from {len(ids)} to {keep} tokens, at the {self._truncate}"

    def _take(self, event: TokenEvent, on_text: Callable[[str], None] | None) -> Record | None:
        answer = self._active[event.request_id]
        stops = [stop for stop in answer.prompt.params.stop if stop]
        ended = event.finish_reason == "stop"
        if not ended:
            answer.sampled.append(event.sampled)
        before = len(answer.text)
        if not ended:
            answer.text += answer.decoder.push(event.sampled.token)
        if event.finish_reason is not None:
            answer.text += answer.decoder.flush()
        reach = max(map(len, stops), default=1) - 1
        found = [at for stop in stops if (at := answer.text.find(stop, max(0, before - reach))) >= 0]
        reason: str | None = event.finish_reason
        if found:
            answer.text = answer.text[: min(found)]
            if reason is None:
                self._engine.drop(event.request_id)
            reason = "stop"
        if on_text is not None:
            # Text that may yet turn out to begin a stop string is held back.
            certain = len(answer.text) if reason else max(answer.shown, len(answer.text) - reach)
            on_text(answer.text[answer.shown : certain])
            answer.shown = certain
        return self._record(event.request_id, reason) if reason else None

    def _record(self, number: int, reason: str) -> Record:
        answer = self._active.pop(number)
        message = answer.message
        tokens = [sampled.token for sampled in answer.sampled]
        unknown = next((t for t in tokens if t >= self._tokenizer.vocab_size), None)
        if unknown is not None and message is None and self._weights is None:
            message = f"the model generated id {unknown}, which the tokenizer does not have"
        wanted = answer.prompt.params.logprobs is not None
        return Record(
            id=answer.prompt.id,
            sample=answer.prompt.sample,
            context=answer.prompt.context,
            text=answer.text,
            length=len(tokens),
            finished=reason == "stop",
            finish_reason=reason,
            message=message,
            duration_seconds=round(time.perf_counter() - answer.start, 6),
            tokens=tokens if wanted else None,
            logprobs=[_logprobs(sampled) for sampled in answer.sampled] if wanted else None,
            weights=self._weights,
        )

    def _failed(self, prompt: Prompt, message: str, start: float) -> Record:
        return Record(
            id=prompt.id,
            sample=prompt.sample,
            context=prompt.context,
            text=None,
            length=0,
            finished=False,
            finish_reason="error",
            message=message,
            duration_seconds=round(time.perf_counter() - start, 6),
            weights=self._weights,
        )


def _logprobs(sampled: Sampled) -> dict[str, object]:
    return {"token": sampled.token, "logprob": sampled.logprob, "top": [list(pair) for pair in sampled.top]}
