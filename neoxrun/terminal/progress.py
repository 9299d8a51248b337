"""Progress on stderr: live bars on a terminal; elsewhere a line now and then; and a closing line."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import NoReturn

from tqdm import tqdm

from neoxrun.terminal.log import log
from neoxrun.terminal.words import counted

_LINE_SECONDS = 5.0
"""Between two lines about a download where stderr is not a terminal."""

_FIRST_LINE, _RARER, _LAST_LINE = 10.0, 6, 600.0
"""About other work there, a line comes after this many seconds, then after a sixth of the time that has passed, up to
the longest pause."""
_REDRAW_SECONDS = 0.2

_BYTES = "B"


class Bar:
    """Progress towards a total. Used as a context manager, it also says at the end what was done.

    Bytes are only a means: their bar goes away at the end, and after an error no line about them follows.
    Anything else that is counted is kept when the work stops, and so is its bar; a line follows unless an error came
    before the first unit.

    Args:
        doing: what is being done, in front of the bar.
        total: how many units there are; None where that is not known.
        unit: what is counted. Default: bytes.
        done: units that were done before.
        amounts: what each unit holds, such as tokens, to show their rate too.
        most: the most that all units to come can hold, from which the time left is told before the first is done.
        show: whether to show anything.
        moving: whether to show anything before the end.
        closing: makes the line that is shown at the end. Default: no line.
        row: which line of the terminal, below the first, the bar is in.

    Attributes:
        count: units done since the bar was made.
        amount: what they hold.
        row: as given.
        note: what is shown next to the speed: the loss of a training, for example.
        facts: the same for programs: further keys of the lines, where those are JSON.
    """

    def __init__(
        self,
        doing: str,
        total: int | None,
        unit: str = _BYTES,
        *,
        show: bool,
        moving: bool = True,
        done: int = 0,
        amounts: str | None = None,
        most: int | None = None,
        closing: Callable[[Bar], str] | None = None,
        row: int = 0,
    ) -> None:
        self.count = self.amount = 0
        self.row = row
        self.note = ""
        self.facts: Mapping[str, object] = {}
        self._doing, self._total, self._unit, self._before = doing, total, unit, done
        self._amounts, self._most = amounts, most
        self._kept = unit != _BYTES
        self._closing = closing if show else None
        self._start = self._drawn = time.perf_counter()
        live = show and moving and _has_terminal()
        self._line_after = _FIRST_LINE if show and moving and not live else math.inf
        self._bar: tqdm[NoReturn] = tqdm(
            desc=doing,
            total=total,
            initial=done,
            unit=unit,
            unit_scale=unit == _BYTES,
            leave=self._kept,
            position=row or None,
            smoothing=0.1,
            disable=not live,
        )

    @property
    def seconds(self) -> float:
        """Seconds since the bar was made; more than 0."""
        return max(time.perf_counter() - self._start, 1e-9)

    def update(self, count: int = 1, amount: int = 0) -> None:
        """``count`` more units are done, and ``amount`` more of what they hold, which may come before."""
        self.count += count
        self.amount += amount
        if self.seconds > self._line_after:
            self._say_line()
        shown = ", ".join(filter(None, (self._speed() if self._amounts else "", self.note)))
        if shown:
            self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(count)
        now = time.perf_counter()
        if now - self._drawn > _REDRAW_SECONDS and not self._bar.disable:  # tqdm would wait for the next unit
            self._drawn = now
            self._bar.refresh()

    def move(self, done: int, doing: str | None = None) -> None:
        """Draw the bar at ``done`` units, which may be fewer than before, and say what is being done now."""
        if doing is not None:
            self._bar.set_description_str(doing, refresh=False)
        if not self._bar.update(done - self._bar.n):
            self._bar.refresh()

    def _speed(self) -> str:
        if self._amounts:
            return f"{self.amount / self.seconds:.1f} {self._amounts}/s"
        rate = self.count / self.seconds
        return f"{_size(rate)}/s" if self._unit == _BYTES else f"{rate:.1f} {self._unit}s/s"

    def _say_line(self) -> None:
        """A line for those who see no bar."""
        self._line_after = self.seconds + min(max(_FIRST_LINE, self.seconds / _RARER), _LAST_LINE)
        done, total = self._before + self.count, self._total
        if self._unit == _BYTES:
            text = _size(done) + ("" if total is None else f" of {_size(total)}")
        else:
            text = counted(done, self._unit) if total is None else f"{done} of {counted(total, self._unit)}"
        beginning = "" if self._doing == f"{self._unit}s" else f"{self._doing}: "
        text = f"{beginning}{text}, {self._speed()}"
        if self.note:
            text += f", {self.note}"
        if total is not None and self.count > 0 and done < total:
            text += f", {_duration((total - done) * self.seconds / self.count)} left"
        elif self._most is not None and self.count == 0 < self.amount < self._most:
            text += f", at most {_duration((self._most - self.amount) * self.seconds / self.amount)} left"
        log.info(text, extra={"facts": self.facts})

    def tell(self, text: str, facts: Mapping[str, object]) -> None:
        """A message above the bar, with further keys for where messages are JSON."""
        _say_above(text, partial(log.info, extra={"facts": facts}))

    def say(self, text: str) -> None:
        """A warning, above the bar."""
        _say_above(text, log.warning)

    def close(self) -> None:
        """Draw no more."""
        self._bar.close()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._closing is not None and (error is None or (self._kept and self.count)):
            log.info(self._closing(self))


class Board:
    """A bar for each file that is being fetched and one for all; a line now and then where stderr is not a terminal.

    Args:
        files: how many there are.
        total: bytes of all of them, where they are known.
        show: whether to show anything.
    """

    def __init__(self, files: int, total: int | None, *, show: bool) -> None:
        self._files, self._total, self._show = files, total, show
        self._live = show and _has_terminal()
        self._said_at = time.monotonic()
        self._done_then: int | None = None
        self._bars: dict[str, Bar] = {}
        self._whole: Bar | None = None

    def update(self, running: Mapping[str, tuple[int, int | None]], finished: int, done: int) -> None:
        """Show how far everything is.

        Args:
            running: of the files that are being fetched, the bytes that have arrived and those of the whole file.
            finished: how many files are complete.
            done: bytes that have arrived of all files.
        """
        if not self._live:
            self._line(finished, done)
            return
        for name in self._bars.keys() - running.keys():
            self._bars.pop(name).close()
        rows = {bar.row for bar in self._bars.values()}
        for name, (arrived, size) in running.items():
            if name not in self._bars:
                row = next(number for number in range(1, len(rows) + 2) if number not in rows)
                rows.add(row)
                self._bars[name] = Bar(name[-40:], size, show=True, row=row)
            self._bars[name].move(arrived)
        if self._whole is None:
            self._whole = Bar("all files", self._total, show=True, done=done)
        self._whole.move(done, f"{finished} of {self._files} files")

    def say(self, text: str) -> None:
        """A line above the bars."""
        if self._show:
            _say_above(text, log.info)
        else:
            log.debug(text)

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bars away."""
        for bar in [*self._bars.values(), *([self._whole] if self._whole else [])]:
            bar.close()

    def _line(self, finished: int, done: int) -> None:
        if self._done_then is None:
            self._done_then = done
        now = time.monotonic()
        if not self._show or now - self._said_at < _LINE_SECONDS:
            return
        speed = max(0, done - self._done_then) / (now - self._said_at)
        self._said_at, self._done_then = now, done
        of = "" if self._total is None else f" of {_size(self._total)}"
        text = f"{finished} of {self._files} files, {_size(done)}{of}, {_size(speed)}/s"
        if self._total is not None and speed > 0:
            text += f", {_duration(max(0, self._total - done) / speed)} left"
        log.info(text)


def _say_above(text: str, say: Callable[[str], object]) -> None:
    with tqdm.external_write_mode(file=sys.stderr):
        say(text)


def _has_terminal() -> bool:
    """Whether bars can be drawn; a terminal without a size, as some containers have, shows none."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


def _size(count: float) -> str:
    return tqdm.format_sizeof(count, "B")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
