"""Answers are computed once, and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from neoxrun.engine.scoring import ScoreRequest
from neoxrun.evaluation.answers import Answers
from neoxrun.evaluation.cache import AnswerCache

ASKED = [ScoreRequest((1,), (2,)), ScoreRequest((1,), (3,)), ScoreRequest((1,), (2,))]
RIGHT = [[-2.0, True], [-3.0, True], [-2.0, True]]


def score(requests: Sequence[ScoreRequest]) -> Iterator[list[tuple[int, Any]]]:
    for number, request in enumerate(requests):
        yield [(number, [-float(request.continuation[0]), True])]


def refuse(requests: Sequence[ScoreRequest]) -> Iterator[list[tuple[int, Any]]]:
    pytest.fail("asked the model again")


def find(answers: Answers, compute: Any) -> list[Any]:
    return answers.find("scoring", ASKED, lambda request: (request.context, request.continuation), compute)


def test_cached_answers_are_not_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with AnswerCache(path, "this model") as cache:
        answers = Answers(cache, show_progress=False)
        assert find(answers, score) == RIGHT
        assert (answers.counts.asked, answers.counts.cached) == (2, 0)
    with AnswerCache(path, "this model") as cache:
        answers = Answers(cache, show_progress=False)
        assert find(answers, refuse) == RIGHT
        assert (answers.counts.asked, answers.counts.cached) == (2, 2)
    with AnswerCache(path, "another model") as cache:
        assert cache.get(cache.key("scoring", (1,), (2,))) is None


def test_answers_before_a_failure_are_remembered(tmp_path: Path) -> None:
    def fail(requests: Sequence[ScoreRequest]) -> Iterator[list[tuple[int, Any]]]:
        yield [(0, RIGHT[0])]
        raise MemoryError

    answers = Answers(None, "this model", show_progress=False)
    with pytest.raises(MemoryError):
        find(answers, fail)
    answers.keep(tmp_path / "kept")
    with AnswerCache(tmp_path / "kept", "this model") as cache:
        again = Answers(cache, show_progress=False)
        assert find(again, lambda requests: score(requests)) == RIGHT
        assert again.counts.cached == 1


def test_answers_of_a_run_without_a_cache_can_be_kept(tmp_path: Path) -> None:
    answers = Answers(None, "this model", show_progress=False)
    assert not answers.has_remembered
    assert find(answers, score) == RIGHT
    assert answers.has_remembered
    answers.keep(tmp_path / "kept")
    with AnswerCache(tmp_path / "kept", "this model") as cache:
        assert find(Answers(cache, show_progress=False), refuse) == RIGHT
