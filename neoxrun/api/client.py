"""Calls to a loaded model: from what is asked to futures, streams and results, in the thread that asks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from neoxrun.api.backends import Backend
from neoxrun.api.completion import Completion, completion_of, interruption
from neoxrun.api.requests import Pending, Pieces, Requests
from neoxrun.api.stream import AnswerStream
from neoxrun.engine.scoring import Scored, ScoreRequest
from neoxrun.errors import UsageError
from neoxrun.generation.encoding import EncodedPrompt
from neoxrun.serving.messages import Cancel, Message, ScoresFound, ScoreWork, TextWork
from neoxrun.terminal.progress import Bar


class Client:
    """Calls of any thread.

    Args:
        backend: the loaded model.
        requests: is given what comes from it.
    """

    def __init__(self, backend: Backend, requests: Requests) -> None:
        self.backend = backend
        self._requests = requests
        self._process = os.getpid()

    def generate(self, answers: Sequence[EncodedPrompt], prompt_logprobs: int | None, bar: Bar) -> list[Completion]:
        """The completions, in order; see ``LLM.generate``."""
        texts, work = self._texts(answers)
        scores = {} if prompt_logprobs is None else self._prompt_scores(answers, prompt_logprobs, work)
        try:
            self.backend.send(work)
            return self._collect(texts, scores, bar)
        except BaseException as error:  # where the call does not wait for its answers, none is computed any longer
            asked: list[Future[Any]] = [*texts, *scores.values()]
            self.backend.send([Cancel(number) for number in self._requests.numbers(asked)])
            interrupted = interruption(texts) if isinstance(error, KeyboardInterrupt) else None
            self._requests.drop(asked)  # no event follows where scores are cancelled
            if interrupted is None:
                raise
            raise interrupted from None

    def stream(self, encoded: EncodedPrompt) -> AnswerStream:
        """A stream of the answer; see ``LLM.stream``."""
        pieces = Pieces()
        pending = self._add(encoded, pieces)
        if pending is None:
            pieces.put(None)
            return AnswerStream(pieces, self._refused(encoded), lambda: None)
        backend, number = self.backend, pending.number
        stream = AnswerStream(pieces, pending.future, lambda: backend.send([Cancel(number)]))
        backend.send([TextWork(number, encoded.ids, encoded.prompt.params, stream=True)])
        return stream

    def submit(self, encoded: EncodedPrompt) -> Future[Completion]:
        """A future for the answer; see ``LLM.submit``."""
        (future,), work = self._texts([encoded])
        backend, numbers = self.backend, self._requests.numbers([future])
        future.add_done_callback(
            lambda done: backend.send([Cancel(number) for number in numbers]) if done.cancelled() else None
        )
        backend.send(work)
        return future

    def score(self, requests: Sequence[ScoreRequest], top: int | None) -> list[Scored]:
        """The scores, in order; see ``LLM.score``."""
        pending = self._requests.add(_scores)
        if not requests:
            self._requests.drop([pending.future])
            return []
        try:
            self.backend.send([ScoreWork(pending.number, requests, top)])
            scored: list[Scored] = pending.future.result()
        except BaseException:
            self.backend.send([Cancel(pending.number)])
            self._requests.drop([pending.future])
            raise
        return scored

    def close(self) -> None:
        """End all requests with an error, and the backend; nothing in a copy of the process."""
        if os.getpid() == self._process:
            self._requests.end(UsageError("the LLM is closed", code="closed", hint="Make another one."))
            self.backend.close()

    def _texts(self, answers: Iterable[EncodedPrompt]) -> tuple[list[Future[Completion]], list[Message]]:
        """A future for each answer, and the work that will give them; prompts that cannot be answered have ended."""
        futures: list[Future[Completion]] = []
        work: list[Message] = []
        for encoded in answers:
            pending = self._add(encoded)
            if pending is None:
                futures.append(self._refused(encoded))
            else:
                futures.append(pending.future)
                work.append(TextWork(pending.number, encoded.ids, encoded.prompt.params))
        return futures, work

    def _add(self, encoded: EncodedPrompt, pieces: Pieces | None = None) -> Pending | None:
        """A request for an answer; None where the prompt cannot be answered."""
        tokenizer, weights = self.backend.tokenizer, self.backend.ready.weights
        pending = self._requests.add(lambda finished: completion_of(encoded, finished, tokenizer, weights), pieces)
        if encoded.ids:
            return pending
        self._requests.drop([pending.future])
        return None

    def _refused(self, encoded: EncodedPrompt) -> Future[Completion]:
        future: Future[Completion] = Future()
        future.set_result(completion_of(encoded, None, self.backend.tokenizer, self.backend.ready.weights))
        return future

    def _prompt_scores(
        self, answers: Iterable[EncodedPrompt], top: int, work: list[Message]
    ) -> dict[int | str, Future[list[Scored]]]:
        """For each prompt that can be scored a future, by the prompt's id; what will give it is added to ``work``."""
        found: dict[int | str, Future[list[Scored]]] = {}
        for encoded in answers:
            if len(encoded.ids) > 1 and encoded.prompt.id not in found:
                pending = self._requests.add(_scores)
                ids = tuple(encoded.ids)
                work.append(ScoreWork(pending.number, [ScoreRequest(ids[:1], ids[1:])], top))
                found[encoded.prompt.id] = pending.future
        return found

    def _collect(
        self, texts: Sequence[Future[Completion]], scores: Mapping[int | str, Future[list[Scored]]], bar: Bar
    ) -> list[Completion]:
        completions: list[Completion] = []
        with bar:
            for future in texts:
                one = future.result()
                if one.id in scores:
                    one = one.with_prompt_scores(scores[one.id].result()[0], self.backend.tokenizer.spell)
                completions.append(one)
                bar.update(amount=one.length)
        return completions

    def check(self) -> None:
        """Nothing, where calls can be made.

        Raises:
            UsageError: this process is a copy of the one to which the model belongs.
            NeoxrunError: there is no model any more.
        """
        if os.getpid() != self._process:
            raise UsageError(
                f"the LLM belongs to process {self._process}, of which this one is a copy",
                code="another_process",
                hint="Make the LLM after the process is forked: in each worker of a server, for example.",
            )
        self._requests.check()


def _scores(found: ScoresFound) -> list[Scored]:
    return list(found.scores)
