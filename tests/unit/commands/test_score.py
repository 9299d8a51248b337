"""What `neoxrun score` refuses before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun import cli
from neoxrun.launch import launcher
from neoxrun.launch.job import Job

REFUSED = {
    "no input": ([], 2, "no input is named", "-i FILE"),
    "empty input": (["-i", ""], 2, "-i needs the name", "shell variable"),
    "missing": (["-i", "{folder}/none.txt"], 4, "does not exist", "path"),
    "stride": (["--context", "8", "--stride", "9"], 2, "--stride 9 is more than the context of 8", "--stride"),
    "stride of all": (["--stride", "999999"], 2, "tokens would be left out", "--context"),
    "context": (["--context", "999999"], 2, "--context 999999 is too long", "at most"),
    "alternatives": (["--top", "1001"], 2, "--top 1001 is more than 1000", None),
    "own input": (["-o", "{folder}/a.txt"], 2, "is also the input", "-o"),
    "no folder": (["-o", "{folder}/none/a.jsonl"], 4, "cannot be written", "-o"),
    "resume of stdout": (["-o", "-", "--resume"], 2, "--resume needs a file", "-o FILE"),
    "summary on stdout": (["-o", "-", "--json"], 2, "--json needs a file", "-o FILE"),
    "Parquet to a device": (["-o", "/dev/null", "--resume"], 2, "not a regular file", "-o FILE"),
    "foreign output": (["-o", "{folder}/notes.jsonl", "--resume"], 4, "not a record of scores", "-o"),
    "blank": (["-i", "{folder}/blank.txt"], 4, "there are no documents", "white space"),
    "no column": (["-i", "{folder}/a.jsonl", "--column", "tex"], 4, 'there is no "tex"', "Did you mean text?"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("import os\n")
    (tmp_path / "a.jsonl").write_text('{"text": "import os"}\n')
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "notes.jsonl").write_text("something else\n")
    return tmp_path


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_loaded(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, code, message, hint = REFUSED[case]
    monkeypatch.setattr(launcher, "run_job", lambda job: pytest.fail("ranks were started"))
    given = [word.format(folder=folder) for word in arguments]
    if "-i" not in given and given:
        given = ["-i", str(folder / "a.txt"), *given]
    assert cli.main(["score", "demo", "--device", "cpu", *given]) == code
    problem, _, advice = capsys.readouterr().err.partition("\n\nhint: ")
    assert message in problem
    assert hint is None or hint in advice
    assert (folder / "notes.jsonl").read_text() == "something else\n"


def test_the_job_has_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(launcher, "run_job", jobs.append)
    for more in ([], ["--context", "64"], ["--context", "64", "--stride", "16", "--top", "3"]):
        cli.main(["score", "demo", "--device", "cpu", "-i", str(folder / "a.txt"), *more])
    whole, short, overlapping = (job.options for job in jobs)
    assert (whole.context, whole.stride) == (jobs[0].plan.max_context,) * 2
    assert (short.context, short.stride) == (64, 64)
    assert (overlapping.context, overlapping.stride, overlapping.top) == (64, 16, 3)
    assert len({whole.run, short.run, overlapping.run}) == 3, "records of one are not continued by another"
    assert whole.output == folder / "a.txt.scores.jsonl"
    assert jobs[0].plan.dtype == "fp32", "as exact as evaluate"
