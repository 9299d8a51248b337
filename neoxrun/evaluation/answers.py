"""The answers of a run: each from the cache, or computed once for requests that are the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from neoxrun.engine.scoring import ScoreRequest
from neoxrun.evaluation.cache import AnswerCache, answer_key
from neoxrun.evaluation.replicas import GenerateRequest
from neoxrun.terminal.progress import Bar
from neoxrun.terminal.words import counted

_AnyRequest = TypeVar("_AnyRequest", ScoreRequest, GenerateRequest)


@dataclass
class Counts:
    """Requests of one run: how many there were, how many of them the cache had, and how long the others took."""

    asked: int = 0
    cached: int = 0
    seconds: float = 0.0


class Answers:
    """What a run has asked the model, and the answers.

    Args:
        cache: answers of earlier runs, and where new ones go.
        fingerprint: of the checkpoint, to remember the answers where there is no cache, so that they can be kept; None
            remembers none.
        show_progress: show a bar on stderr.
    """

    def __init__(self, cache: AnswerCache | None, fingerprint: str | None = None, *, show_progress: bool) -> None:
        self._cache, self._show_progress = cache, show_progress
        self._fingerprint = fingerprint if cache is None else None
        self._remembered: list[tuple[bytes, Any]] = []
        self.counts = Counts()

    @property
    def has_remembered(self) -> bool:
        """Whether there are answers that no cache has."""
        return bool(self._remembered)

    def find(
        self,
        doing: str,
        asked: Sequence[_AnyRequest],
        key_of: Callable[[_AnyRequest], tuple[Any, ...]],
        compute: Callable[[Sequence[_AnyRequest]], Iterable[list[tuple[int, Any]]]],
    ) -> list[Any]:
        """Every request's answer.

        Args:
            doing: what computing them is called.
            asked: the requests.
            key_of: all that the answer to a request depends on, besides the model.
            compute: their answers, as they come: the number of a request, and its answer.
        """
        found: dict[_AnyRequest, Any] = {}
        keys: dict[_AnyRequest, bytes] = {}
        if self._cache is not None:
            for request in dict.fromkeys(asked):
                keys[request] = self._cache.key(doing, *key_of(request))
                answer = self._cache.get(keys[request])
                if answer is not None:
                    found[request] = answer
        missing = [request for request in dict.fromkeys(asked) if request not in found]
        self.counts.asked += len(missing) + len(found)
        self.counts.cached += len(found)
        start = time.perf_counter()
        cached = len(found)

        def how_fast(bar: Bar) -> str:
            text = f"{doing}: {counted(bar.count, 'request')} in {bar.seconds:.1f} s"
            if bar.count:
                text += f" ({bar.count / bar.seconds:.1f} requests/s)"
            return text + (f", {cached} more were in the cache" if cached else "")

        try:
            with Bar(
                doing, len(missing) + cached, "request", done=cached, show=self._show_progress, closing=how_fast
            ) as bar:
                for answers in compute(missing) if missing else ():
                    for number, answer in answers:
                        found[missing[number]] = answer
                    if self._cache is not None:
                        self._cache.put((keys[missing[number]], answer) for number, answer in answers)
                    bar.update(len(answers))
        finally:
            if self._fingerprint is not None:
                for one in (request for request in missing if request in found):
                    self._remembered.append((answer_key(self._fingerprint, doing, *key_of(one)), found[one]))
        self.counts.seconds += time.perf_counter() - start
        return [found[request] for request in asked]

    def keep(self, path: Path) -> None:
        """Write the remembered answers to a new cache, from which another run can continue.

        Raises:
            DataError: the file cannot be written.
        """
        with AnswerCache(path, self._fingerprint or "") as cache:
            cache.put(self._remembered)
