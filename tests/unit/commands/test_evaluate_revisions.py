"""What `neoxrun evaluate --revisions` checks before it asks a hub, and what makes two runs the same work."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun import cli
from neoxrun.commands import evaluate_revisions, revision_args
from support.colours import write_tasks


def test_what_makes_no_other_work_are_options_that_there_are() -> None:
    """A renamed option has to be renamed there, too, or results of earlier runs would not be found again."""
    args = cli.build_parser(["evaluate"]).parse_args(["evaluate", "--tasks", "colours"])
    known = set(vars(args)) | {"verbosity"}  # main makes it from --verbose and --quiet
    assert known >= evaluate_revisions._ELSEWHERE
    assert {"seed", "limit", "merge"} <= known - evaluate_revisions._ELSEWHERE


def test_a_check_changes_nothing() -> None:
    args = cli.build_parser(["evaluate"]).parse_args(["evaluate", "--tasks", "colours", "--revisions", "all"])
    before = dict(vars(args))
    evaluate_revisions.check_usage(args)
    assert vars(args) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gen-kwargs", "max_gen_toks"], "is not KEY=VALUE"),
        (["--compare", "paper"], "--compare and --revisions cannot be combined"),
        (["--tasks", "none-of-them"], "there is no task 'none-of-them'"),
    ],
)
def test_refused_before_a_hub_is_asked(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(revision_args, "choose", lambda args: pytest.fail("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    tasks = write_tasks(tmp_path)
    command = ["evaluate", "demo", "--revisions", "all", "--repo", "lab/tiny", "--include-path", str(tasks)]
    given = arguments if "--tasks" in arguments else ["--tasks", "colours", *arguments]
    assert cli.main([*command, *given]) in (2, 4)
    assert message in capsys.readouterr().err
