"""stdin where no input is named, and inputs among the configurations."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neoxrun import cli
from neoxrun.commands.input_args import piped_input
from neoxrun.launch import launcher
from neoxrun.launch.job import Job


@contextmanager
def stdin(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The descriptor as descriptor 0."""
    kept = os.dup(0)
    os.dup2(descriptor, 0)
    os.close(descriptor)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(os.fdopen(0, "rb", closefd=False)))
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def pipe_of(data: bytes) -> int:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


def test_what_is_piped_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with stdin(pipe_of(b"import os\n"), monkeypatch):
        assert piped_input() == "-"
        assert sys.stdin.buffer.read() == b"import os\n", "it is still there"
    with stdin(pipe_of(b""), monkeypatch):
        assert piped_input() is None
    with stdin(os.open(os.devnull, os.O_RDONLY), monkeypatch):
        assert piped_input() is None
    with stdin(os.open(__file__, os.O_RDONLY), monkeypatch):
        assert piped_input() == "-"
    with stdin(os.openpty()[1], monkeypatch):
        assert piped_input() is None


def test_a_named_input_leaves_stdin_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(launcher, "run_job", jobs.append)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    for arguments, count in ((["-i", "a.txt"], 2), (["--prompt", "a"], 1), ([], 3)):
        with stdin(pipe_of(b"1\n2\n3\n"), monkeypatch):
            cli.main(["generate", "demo", "--device", "cpu", *arguments])
        assert len(jobs[-1].options.prompts) == count


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(arguments) == 2
    return capsys.readouterr().err


def test_an_input_among_the_configurations_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("prompts.txt", "prompts.jsonl", "prompts"):
        path = tmp_path / name
        path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
        for command in ("generate", "score"):
            for configs in (["demo", str(path)], [str(path)]):
                assert refused([command, *configs], capsys).endswith(f"Give it with -i {path}.\n")
    weights = tmp_path / "layer_00-model_00-model_states.pt"
    weights.touch()
    assert refused(["generate", str(weights)], capsys).endswith(f"Name its folder instead, `{tmp_path}`.\n")
    (tmp_path / "empty").mkdir()
    found = refused(["generate", str(tmp_path / "empty"), "demo", "--set", "num_layers=x"], capsys)
    assert "--prompt TEXT" not in found, "both exist"
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("num_layer: 6\n")
    assert "Give it with" not in refused(["generate", "demo", str(wrong)], capsys)


def test_a_text_among_the_configurations_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("import os", "What is this: a question?", "x = 1\n" * 200):
        assert "--prompt TEXT" in refused(["generate", "demo", text], capsys)
        assert "--prompt TEXT" in refused(["generate", text], capsys)
    assert "--prompt TEXT" in refused(["generate", "demo", "import"], capsys)
    assert "Did you mean pythia-160m?" in refused(["generate", "pythia160m"], capsys)
