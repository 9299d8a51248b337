"""Bars on a terminal, and the lines that stand for them elsewhere."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

import pytest

from neoxrun.terminal import progress
from neoxrun.terminal.log import log, set_up
from neoxrun.terminal.progress import Bar, Board

Shown = Callable[[], str]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Iterator[Shown]:
    """What has been written to stderr, which is no terminal."""
    before = (list(log.handlers), log.level)
    yield lambda: capsys.readouterr().err
    log.handlers[:], level = before
    log.setLevel(level)


@pytest.fixture
def screen(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What has been written to stderr, a terminal of 100 columns."""
    monkeypatch.setattr(progress, "_has_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    return shown


def closing(bar: Bar) -> str:
    return f"{bar.count} done with {bar.amount}"


def test_without_a_terminal_there_is_a_closing_line_only(shown: Shown) -> None:
    set_up(0)
    with Bar("answers", 9, "answer", done=2, amounts="tokens", show=True, closing=closing) as bar:
        bar.update(amount=5)
        bar.update(2, 7)
    assert shown() == "3 done with 12\n"


def test_after_an_error_there_is_a_line_about_what_was_done_before(shown: Shown) -> None:
    set_up(0)
    for count, line in ((0, ""), (1, "1 done with 5\n")):
        bar = Bar("answers", 9, "answer", amounts="tokens", show=True, closing=closing)
        bar.update(count, 5)
        bar.__exit__(OSError, OSError("full"), None)
        assert shown() == line


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_without_a_terminal_a_line_comes_every_ten_seconds_and_then_less_often(
    shown: Shown, clock: list[float]
) -> None:
    set_up(0)
    with Bar("answers", 1000, "answer", done=100, amounts="tokens", show=True) as bar:
        clock[0] += 9
        bar.update(amount=5)
        assert shown() == ""
        clock[0] += 2
        bar.update(0, 6)
        assert shown() == "101 of 1000 answers, 1.0 tokens/s, 2 h 44 min left\n"
        times = []
        for second in range(12, 4 * 3600):
            clock[0] = 100.0 + second
            bar.update(0, 1)
            if shown():
                times.append(second)
    assert times[:6] == [22, 33, 44, 55, 66, 78]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[-1] in (600, 601)
    assert len(times) < 60


def test_lines_about_bytes_and_about_work_without_an_end(shown: Shown, clock: list[float]) -> None:
    set_up(0)
    with Bar("loading", 40_000_000_000, show=True) as bar:
        clock[0] += 20
        bar.update(10_000_000_000)
    assert shown() == "loading: 10.0GB of 40.0GB, 500MB/s, 1 min 0 s left\n"
    with Bar("comparing", None, "tensor", show=True) as bar:
        clock[0] += 20
        bar.update(10)
    assert shown() == "comparing: 10 tensors, 0.5 tensors/s\n"


def test_before_anything_is_done_no_end_is_in_sight(shown: Shown, clock: list[float]) -> None:
    set_up(0)
    with Bar("answers", 4, "answer", amounts="tokens", show=True) as bar:
        clock[0] += 20
        bar.update(0, 100)
    assert shown() == "0 of 4 answers, 5.0 tokens/s\n"


def test_before_the_first_answer_is_done_the_tokens_tell_the_time_left(shown: Shown, clock: list[float]) -> None:
    """It is the most that the rest can take, as an answer may end before its last token can."""
    set_up(0)
    with Bar("answers", 40, "answer", done=3, amounts="tokens", most=1000, show=True) as bar:
        clock[0] += 20
        bar.update(0, 100)
        assert shown() == "3 of 40 answers, 5.0 tokens/s, at most 3 min 0 s left\n"
        clock[0] += 20
        bar.update(1, 100)
        assert shown() == "4 of 40 answers, 5.0 tokens/s, 24 min 0 s left\n"
    for most, amount in ((100, 0), (100, 100), (100, 101)):
        with Bar("answers", 4, "answer", amounts="tokens", most=most, show=True) as bar:
            clock[0] += 20
            bar.update(0, amount)
        assert "left" not in shown()


def test_what_shows_itself_has_neither_bar_nor_lines(screen: Shown, clock: list[float]) -> None:
    set_up(0)
    with Bar("answers", 4, "answer", amounts="tokens", show=True, moving=False, closing=closing) as bar:
        clock[0] += 20
        bar.update(1, 100)
    assert screen() == "1 done with 100\n"


def test_a_bar_shows_the_speed_before_the_next_unit_is_done(screen: Shown, clock: list[float]) -> None:
    set_up(0)
    with Bar("answers", 4, "answer", amounts="tokens", show=True) as bar:
        clock[0] += 20
        bar.update(0, 100)
        assert re.search(r"0/4 \[.*5\.0 tokens/s\]", screen())


def test_what_is_not_shown_says_nothing(screen: Shown) -> None:
    set_up(0)
    with Bar("answers", 9, "answer", show=False, closing=closing) as bar:
        bar.update()
        assert bar.count == 1
    with Board(1, 10, show=False) as board:
        board.update({"a": (5, 10)}, 0, 5)
        board.say("next mirror")
    assert screen() == ""


@pytest.mark.parametrize(("unit", "says"), [("answer", "1 done with 0\n"), ("B", "")])
def test_after_an_error_only_what_is_kept_is_told(unit: str, says: str, shown: Shown) -> None:
    set_up(0)

    def stop() -> None:
        with Bar("x", 9, unit, show=True, closing=closing) as bar:
            bar.update()
            raise KeyError

    with pytest.raises(KeyError):
        stop()
    assert shown() == says


def test_a_bar_on_a_terminal(screen: Shown) -> None:
    set_up(0)
    with Bar("answers", 9, "answer", done=2, amounts="tokens", show=True, closing=closing) as bar:
        bar.update(amount=5)
        bar.say("prompt 3: too long")
    text = screen()
    assert re.search(r"answers: +33%\|.*\| 3/9 \[.*tokens/s\]", text)
    assert "\rwarning: prompt 3: too long\n" in text
    assert text.endswith("\n1 done with 5\n"), "the bar stays, and the line is below it"


def test_a_bar_of_bytes_goes_away(screen: Shown) -> None:
    set_up(0)
    with Bar("loading", 3_000_000, show=True) as bar:
        bar.update(1_500_000)
        bar.move(1_500_000)
    text = screen()
    assert re.search(r"loading: +50%\|.*\| 1.50M/3.00M \[.*B/s\]", text)
    assert text.endswith("\r"), "nothing is left of it"


def test_a_bar_may_go_back(screen: Shown) -> None:
    set_up(0)
    with Bar("loading", 100, show=True) as bar:
        bar.move(80)
        bar.move(10, "again")
        assert "again:  10%" in screen()


def test_a_download_on_a_terminal(screen: Shown) -> None:
    set_up(0)
    with Board(3, 3000, show=True) as board:
        board.update({"one": (0, 1000), "two": (0, None)}, 0, 500)
        board.update({"one": (500, 1000), "two": (10, None)}, 0, 1010)
        assert {name: bar.row for name, bar in board._bars.items()} == {"one": 1, "two": 2}
        board.say("two: on to the next mirror")
        board.update({"two": (900, None), "three": (100, 1000)}, 1, 2000)
        assert {name: bar.row for name, bar in board._bars.items()} == {"two": 2, "three": 1}
    text = screen()
    assert "one:  50%" in text
    assert "1 of 3 files:  67%" in text
    assert "two: on to the next mirror\n" in text


def test_a_download_elsewhere_says_a_line_now_and_then(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(0)
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with Board(3, 3_000_000, show=True) as board:
        board.update({}, 0, 500_000)
        clock[0] += 4
        board.update({}, 1, 900_000)
        assert shown() == ""
        clock[0] += 4
        board.update({}, 1, 1_300_000)
        board.say("a: on to the next mirror")
        clock[0] += 1
        board.update({}, 1, 2_000_000)
    assert shown() == ("1 of 3 files, 1.30MB of 3.00MB, 100kB/s, 17 s left\na: on to the next mirror\n")
