"""What is said of a run: messages, lines, files."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from neoxrun.errors import DataError
from neoxrun.terminal import progress
from neoxrun.terminal.log import log, set_up
from neoxrun.training.effort import Effort
from neoxrun.training.folder import RunFolder
from neoxrun.training.report import Report, StepFacts, open_trackers


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    before = (list(log.handlers), log.level)
    yield
    log.handlers[:], level = before
    log.setLevel(level)


class Kept:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.values: list[tuple[int, dict[str, float]]] = []
        self.texts: dict[str, str] = {}
        self.ended: list[bool] = []

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self.values.append((step, dict(values)))

    def add_texts(self, step: int, texts: Mapping[str, str]) -> None:
        self.texts |= texts

    def close(self, *, failed: bool) -> None:
        self.ended.append(failed)


def report(path: Path, tracker: Kept, done: int = 0, show: bool = True) -> Report:
    effort = Effort(frozen=0, trained=1000, peak=6e7)
    return Report(RunFolder(path), done=done, total=4, effort=effort, show_progress=show, trackers=[tracker])


def step(number: int, loss: float = 2.5, **facts: object) -> StepFacts:
    return StepFacts(number, loss, 1e-3, 0.5, tokens=1000, seconds=0.5, **facts)  # type: ignore[arg-type]


def test_steps_evaluations_and_samples_are_kept_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(0)
    tracker = Kept()
    with report(tmp_path, tracker) as watching:
        watching.step(step(1))
        watching.evaluated(1, 2.0)
        watching.sampled(1, {"To be": " or\nnot"})
        watching.tell("checkpoint: global_step1", step=1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "step": 1,
        "loss": 2.5,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "tokens": 1000,
        "seconds": 0.5,
        "tokens_per_second": 2000.0,
        "mfu": 0.2,
    }
    assert lines[1:] == [{"step": 1, "eval_loss": 2.0}]
    assert json.loads((tmp_path / "samples.jsonl").read_text()) == {"step": 1, "prompt": "To be", "text": " or\nnot"}
    said = capsys.readouterr().err
    assert "evaluation after 1 step: loss 2.0000, perplexity 7.39\n" in said
    assert "sample: To be ->  or\\nnot\n" in said
    assert "loss 2.5000, rate 1.00e-03, 2,000 tokens/s, MFU 20.0 %\n" in said
    logged = [json.loads(line)["message"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged[0].startswith("evaluation after 1 step")
    assert "checkpoint: global_step1" in logged
    assert tracker.values[0] == (1, {f"train/{key}": lines[0][key] for key in lines[0] if key != "step"})
    assert tracker.values[1:] == [(1, {"eval/loss": 2.0})]
    assert tracker.texts == {"To be": " or\nnot"}
    assert tracker.ended == [False]
    assert not [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]


def test_without_a_terminal_a_line_says_how_far_the_run_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    set_up(0, as_json=False)
    with report(tmp_path, Kept(), done=1) as watching:
        now[0] += 12
        watching.step(step(2))
        assert capsys.readouterr().err == (
            "training: 2 of 4 steps, 0.1 steps/s, loss 2.5000, rate 1.00e-03, 2,000 tokens/s, MFU 20.0 %, 24 s left\n"
        )


def test_lines_of_json_have_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("sys.stderr", __import__("sys").stderr)  # set_up replaces it
    set_up(0, as_json=True)
    with report(tmp_path, Kept()) as watching:
        now[0] += 12
        watching.step(step(1, loss_scale=1024.0, skipped=True))
        watching.evaluated(1, 1000.0)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (lines[0]["step"], lines[0]["steps"], lines[0]["loss"], lines[0]["mfu"]) == (1, 4, 2.5, 0.2)
    assert (lines[0]["loss_scale"], lines[0]["skipped"]) == (1024.0, True)
    assert (lines[1]["eval_loss"], lines[1]["message"]) == (1000.0, "evaluation after 1 step: loss 1000.0000")


def test_on_a_terminal_the_bar_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_has_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    set_up(0)
    with report(tmp_path, Kept()) as watching:
        watching.step(step(1))
        watching.evaluated(1, 2.0)
    drawn = capsys.readouterr().err
    assert "| 1/4 [" in drawn
    assert "loss 2.5000, rate 1.00e-03, 2,000 tokens/s, MFU 20.0 %]" in drawn
    assert "evaluation after 1 step: loss 2.0000" in drawn


def test_a_run_that_continues_says_nothing_twice(tmp_path: Path) -> None:
    with report(tmp_path, Kept(), show=False) as watching:
        for number in (1, 2, 3):
            watching.step(step(number))
            watching.sampled(number, {"a": "b"})
    with report(tmp_path, Kept(), done=2, show=False) as watching:
        watching.step(step(3, 0.5))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 2.5), (2, 2.5), (3, 0.5)]
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 2


def test_a_loss_that_is_no_number_is_kept_as_none(tmp_path: Path) -> None:
    tracker = Kept()

    def fail() -> None:
        with report(tmp_path, tracker, show=False) as watching:
            watching.step(step(1, float("nan")))
            raise DataError("stop", code="bad_file")

    with pytest.raises(DataError, match="stop"):
        fail()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None
    assert tracker.ended == [True]


def test_the_losses_are_drawn_where_matplotlib_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with report(tmp_path, Kept(), show=False) as watching:
        watching.step(step(1))
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_has_the_trackers_that_were_asked_for(tmp_path: Path) -> None:
    assert open_trackers(RunFolder(tmp_path), {}, wandb=None, tensorboard=False) == []
    pytest.importorskip("tensorboard")
    trackers = open_trackers(RunFolder(tmp_path), {}, wandb=None, tensorboard=True)
    for tracker in trackers:
        tracker.close(failed=False)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
