"""Answers in a file: kept at once, shared between runs, and never another model's."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from neoxrun.errors import DataError
from neoxrun.evaluation.cache import AnswerCache


def test_cache_keeps_what_was_put(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with AnswerCache(path, "a") as cache:
        key = cache.key("scoring", (1, 2), (3,))
        assert key != cache.key("scoring", (1,), (2, 3))
        assert cache.get(key) is None
        cache.put([(key, (-1.1234567890123456, True))])
    with AnswerCache(path, "a") as cache:
        assert cache.get(key) == [-1.1234567890123456, True]


def test_another_run_sees_answers_at_once_and_can_add_its_own(tmp_path: Path) -> None:
    """Also those that come right after others: a run that is killed has lost nothing and locks nobody out."""
    path = tmp_path / "answers"
    with AnswerCache(path, "a") as cache:
        for number in range(3):
            cache.put([(cache.key("scoring", (number,)), number)])
        other = sqlite3.connect(path, timeout=0)
        with other:
            assert other.execute("SELECT count(*) FROM answers").fetchone() == (3,)
            other.execute("INSERT INTO answers VALUES (?, ?)", (cache.key("scoring", (3,)), "3"))
        other.close()
        assert cache.get(cache.key("scoring", (3,))) == 3
    before = path.read_bytes()
    AnswerCache(path, "a").close()
    assert path.read_bytes() == before  # opening writes nothing


def test_answers_of_another_way_to_score_are_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AnswerCache(tmp_path / "answers", "a") as cache:
        cache.put([(cache.key("scoring", (1,)), 1)])
        monkeypatch.setattr("neoxrun.evaluation.cache.SCORING_VERSION", 0)
        assert cache.get(cache.key("scoring", (1,))) is None


def test_a_damaged_cache_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with AnswerCache(path, "a") as cache:
        keys = [cache.key("scoring", (number,)) for number in range(2000)]
        cache.put((key, [-1.5, True]) for key in keys)
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\x55" * (len(data) - 8192))
    with AnswerCache(path, "a") as cache, pytest.raises(DataError, match=r"cannot be used.*malformed") as caught:
        list(map(cache.get, keys))
    assert caught.value.code == "bad_file"
    assert "--cache" in caught.value.hint
    with AnswerCache(path, "a") as cache, pytest.raises(DataError, match="cannot be used") as caught:
        cache.put((key, 1) for key in keys)
    assert caught.value.code == "bad_file"


def test_other_databases_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE answers (key BLOB, answer TEXT)")
    base.commit()
    base.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match="not a cache of answers") as caught:
        AnswerCache(path, "a")
    assert caught.value.code == "bad_file"
    assert path.read_bytes() == before
