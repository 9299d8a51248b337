"""What lm-eval writes about the machine, and what is written where that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.evaluation import document


def test_outside_of_a_repository_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no such program")

    monkeypatch.setattr(document, "get_pretty_env_info", fail)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = document.describe_environment()
    assert found["pretty_env_info"] == "no such program"
    assert found["git_hash"] is found["upper_git_hash"] is None


def test_the_commit_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lm-eval finds it where there is no git: the files of the repository."""
    (tmp_path / ".git" / "refs").mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/main\n")
    (tmp_path / ".git" / "refs" / "main").write_text("0123abc\n")
    (tmp_path / "below").mkdir()
    monkeypatch.setattr(document, "get_pretty_env_info", lambda: "a machine")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path / "below")
    found = document.describe_environment()
    assert (found["git_hash"], found["upper_git_hash"]) == (None, "0123abc")
    monkeypatch.chdir(tmp_path)
    assert document.describe_environment()["git_hash"] == "0123abc"
