"""Progress bars on stderr: a live bar on a terminal, nothing but a closing line elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

from neoxrun.log import log


class LoadBar:
    """Bytes of weights, with GB/s."""

    def __init__(self, total_bytes: int, show: bool) -> None:
        self._show = show
        self._start = time.perf_counter()
        self._bytes = 0
        self._bar = tqdm(
            total=total_bytes,
            desc="loading",
            unit="B",
            unit_scale=True,
            leave=False,
            disable=not (show and sys.stderr.isatty()),
        )

    def update(self, count: int) -> None:
        """``count`` more bytes are loaded."""
        self._bytes += count
        self._bar.update(count)

    def __enter__(self) -> LoadBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say what was loaded, and how fast; after an error only leave its message a line of its own."""
        self._bar.close()
        seconds = time.perf_counter() - self._start
        if self._show and error is None:
            size = self._bytes / 1e9
            log.info(f"loaded {size:.3g} GB of weights a rank in {seconds:.1f} s ({size / seconds:.2f} GB/s)")


class GenerationBar:
    """Answers done, and tokens a second."""

    def __init__(self, total: int, done: int, show: bool) -> None:
        self._show = show
        self._start = time.perf_counter()
        self._tokens = self._answers = 0
        self._bar = tqdm(
            total=total,
            initial=done,
            desc="answers",
            unit="answer",
            disable=not (show and sys.stderr.isatty()),
        )

    def update(self, tokens: int) -> None:
        """One more answer is done, with ``tokens`` tokens."""
        self._tokens += tokens
        self._answers += 1
        self._bar.set_postfix_str(f"{self._rate():.1f} tokens/s", refresh=False)
        self._bar.update()

    def say(self, text: str) -> None:
        """A warning, above the bar."""
        self._bar.clear()
        log.warning(text)

    def __enter__(self) -> GenerationBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say what was done, and how fast."""
        self._bar.close()
        if self._show:
            seconds = time.perf_counter() - self._start
            answers = "1 answer" if self._answers == 1 else f"{self._answers} answers"
            log.info(f"{answers}, {self._tokens} tokens in {seconds:.1f} s ({self._rate():.1f} tokens/s)")

    def _rate(self) -> float:
        return self._tokens / max(time.perf_counter() - self._start, 1e-9)


class RequestBar:
    """Requests answered, and how long the rest will take.

    Args:
        doing: what is done with them.
        total: how many there are.
        done: how many were answered before.
        show: keep a bar, and say at the end how fast it was.
    """

    def __init__(self, doing: str, total: int, done: int, show: bool) -> None:
        self._doing, self._show, self._done = doing, show, done
        self._start = time.perf_counter()
        self._answered = 0
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=doing,
            unit="request",
            smoothing=0.1,
            disable=not (show and sys.stderr.isatty()),
        )

    def update(self, count: int) -> None:
        """``count`` more requests are answered."""
        self._answered += count
        self._bar.update(count)

    def __enter__(self) -> RequestBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say what was done, and how fast."""
        self._bar.close()
        if self._show:
            seconds = time.perf_counter() - self._start
            text = f"{self._doing}: {self._answered} requests in {seconds:.1f} s"
            if self._answered:
                text += f" ({self._answered / max(seconds, 1e-9):.1f} requests/s)"
            log.info(text + (f", {self._done} more were in the cache" if self._done else ""))
