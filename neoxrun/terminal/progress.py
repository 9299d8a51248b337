"""Progress on stderr: live bars on a terminal; elsewhere a closing line, and lines now and then of a download."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from tqdm import tqdm

from neoxrun.terminal.log import log

_LINE_SECONDS = 5.0
"""Between two lines about a download where stderr is not a terminal."""


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
    """Answers done, and tokens a second; the closing line says where the answers are.

    Args:
        total: answers, those of an earlier run included.
        done: answers of an earlier run.
        show: keep a bar, and say at the end what was done.
        output: the file that the answers are in; None where they went to stdout.
    """

    def __init__(self, total: int, done: int, show: bool, output: Path | None = None) -> None:
        self._show = show
        self._output = output
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
            where = "" if self._output is None else f", in {self._output}"
            log.info(f"{answers}, {self._tokens} tokens in {seconds:.1f} s ({self._rate():.1f} tokens/s){where}")

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


@dataclass
class Running:
    """One download under way; its own thread writes it, the bars read it.

    Attributes:
        name: of the file.
        total: bytes, where they are known.
        done: bytes that are there.
        say: shows a line above the bars.
    """

    name: str
    total: int | None
    say: Callable[[str], None]
    done: int = 0


class DownloadBars:
    """One bar for each running file and one for all; a line now and then where stderr is not a terminal.

    Args:
        files: how many there are.
        total: bytes of all of them, where they are known.
        show: whether to show anything.
    """

    def __init__(self, files: int, total: int | None, show: bool) -> None:
        self._show = show
        self._files = files
        self._total = total
        self._live = show and _has_terminal()
        self._start = self._said = time.monotonic()
        self._first: int | None = None
        self._at_said = 0
        self._bars: dict[str, tqdm[NoReturn]] = {}
        self._whole = self._bar("all files", total, 0)

    def update(self, running: Sequence[Running], finished: int, done: int) -> None:
        """Draw: the running files, how many are finished, and how many bytes of all files are there."""
        if self._first is None:
            self._first = self._at_said = done
            self._whole.initial = self._whole.n = done
        if not self._live:
            self._line(finished, done)
            return
        names = {one.name for one in running}
        for name in self._bars.keys() - names:
            self._bars.pop(name).close()
        taken = {-bar.pos for bar in self._bars.values()}
        for one in running:
            if one.name not in self._bars:
                place = next(n for n in range(1, len(names) + len(taken) + 2) if n not in taken)
                taken.add(place)
                self._bars[one.name] = self._bar(one.name[-40:], one.total, place)
            _move(self._bars[one.name], one.done)
        self._whole.set_description_str(f"{finished} of {self._files} files", refresh=False)
        _move(self._whole, done)

    def say(self, text: str) -> None:
        """A line above the bars."""
        if not self._show:
            log.debug(text)
        elif self._live:
            with tqdm.external_write_mode(file=sys.stderr):
                log.info(text)
        else:
            log.info(text)

    def __enter__(self) -> DownloadBars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bars away."""
        for bar in self._bars.values():
            bar.close()
        self._whole.close()

    def _bar(self, name: str, total: int | None, place: int) -> tqdm[NoReturn]:
        return tqdm(
            total=total, desc=name, unit="B", unit_scale=True, leave=False, position=place, disable=not self._live
        )

    def _line(self, finished: int, done: int) -> None:
        now = time.monotonic()
        if not self._show or now - self._said < _LINE_SECONDS:
            return
        speed = max(0, done - self._at_said) / (now - self._said)
        self._said, self._at_said = now, done
        of = "" if self._total is None else f" of {_size(self._total)}"
        text = f"{finished} of {self._files} files, {_size(done)}{of}, {_size(speed)}/s"
        if self._total is not None and speed > 0:
            text += f", {_duration(max(0, self._total - done) / speed)} left"
        log.info(text)


class CheckBar:
    """Bytes that are read through, to check them."""

    def __init__(self, total: int, show: bool) -> None:
        self._bar = tqdm(
            total=total,
            desc="checking",
            unit="B",
            unit_scale=True,
            leave=False,
            disable=not (show and sys.stderr.isatty()),
        )

    def update(self, count: int) -> None:
        """``count`` more bytes are read."""
        self._bar.update(count)

    def __enter__(self) -> CheckBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._bar.close()


def _has_terminal() -> bool:
    """Whether bars can be drawn; a terminal without a size, as some containers have, shows none."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


def _move(bar: tqdm[NoReturn], done: int) -> None:
    """Set a bar, which may also go back."""
    if not bar.update(done - bar.n):
        bar.refresh()


def _size(count: float) -> str:
    return tqdm.format_sizeof(count, "B")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
