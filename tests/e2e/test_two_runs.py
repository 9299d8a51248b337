"""Two runs that write to one file: the second is refused, and nothing of the first is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.command import Running, neoxrun, records_of, running, wait_for

PROMPTS = 6
GENERATE = ("generate", "demo", "-i", "in.txt", "--maximum-tokens", "40", "--ignore-eos", "--dtype", "fp32")
SLOWLY = ("--batch-size", "1", "-q")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in.txt").write_text("".join(f"def function_{number}(value):\n" for number in range(PROMPTS)))
    return tmp_path


def names(folder: Path) -> list[str]:
    """The files of a folder."""
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def halted(command: Running, records: Path) -> Iterator[None]:
    """The command makes no progress for a while, after its first record."""

    def ready() -> bool:
        assert command.process.poll() is None, command.finish().err
        with suppress(FileNotFoundError):  # the command tries whether it can be written, and removes it again
            return b"\n" in records.read_bytes()
        return False

    wait_for(ready, 60, lambda: "no records came")
    processes = command.processes()
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


@pytest.mark.parametrize("how", [("--tp", "1", "-o", "out.jsonl"), ("--tp", "2")], ids=" ".join)
def test_a_run_is_refused_while_another_writes(how: tuple[str, ...], folder: Path) -> None:
    name = "out.jsonl" if "-o" in how else "in.txt.output.jsonl"
    output = folder / name
    with running(*GENERATE, *how, *SLOWLY, cwd=folder) as first:
        with halted(first, output):
            for more in ((), ("--resume",), ("--seed", "7", "--overwrite")):
                second = neoxrun(*GENERATE, *how, *more, cwd=folder)
                second.check_error(4, f"another run is writing to {name} (process {first.process.pid} on", where=name)
            score = neoxrun("score", "demo", "-i", "in.txt", "-o", output, "--overwrite", cwd=folder)
            score.check_error(4, "another run is writing to")
        first.finish().check_success()
    assert sorted(record["id"] for record in records_of(output)) == list(range(PROMPTS))
    assert names(folder) == sorted(["in.txt", name, f"{name}.meta.json"])


def test_of_two_at_once_one_writes(folder: Path) -> None:
    """With different seeds: the file and what says how it was made are of one run."""
    commands = [Running(*GENERATE, "-o", "out.jsonl", *SLOWLY, "--seed", seed, cwd=folder) for seed in (1, 2)]
    results = [command.finish() for command in commands]
    assert sorted(result.code for result in results) == [0, 4], [result.err for result in results]
    winner = 1 + [result.code for result in results].index(0)
    assert [record["id"] for record in records_of(folder / "out.jsonl")] == list(range(PROMPTS))
    assert f'"seed": {winner}' in (folder / "out.jsonl.meta.json").read_text()


def test_a_run_that_was_killed_holds_nothing(folder: Path) -> None:
    output = folder / "out.jsonl"
    with running(*GENERATE, "-o", output, "--tp", "2", *SLOWLY, cwd=folder) as first:
        with halted(first, output):
            first.process.send_signal(signal.SIGKILL)
            first.process.wait(10)
            first.check_all_gone()
        neoxrun(*GENERATE, "-o", output, "--resume", cwd=folder).check_success()
    assert sorted(record["id"] for record in records_of(output)) == list(range(PROMPTS))
    assert names(folder) == ["in.txt", "out.jsonl", "out.jsonl.meta.json"]


def test_ctrl_c_while_loading_lets_it_go(folder: Path) -> None:
    with running(*GENERATE, "-o", "out.jsonl", cwd=folder) as first:
        wait_for((folder / ".out.jsonl.lock").exists, 60, lambda: "no lock came")
        wait_for(lambda: "neoxrun.launch.start" in str(first.processes()), 60, lambda: "the model is not loaded")
        first.interrupt()
        assert first.finish().code == 130
    assert names(folder) == ["in.txt"]


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.parquet"])
def test_scores(name: str, folder: Path) -> None:
    (folder / "in.txt").write_text("".join(f"{'x = 1; ' * 600}{number}\n" for number in range(12)))
    work = ("score", "demo", "-i", "in.txt", "-o", name, "--document-end", "\n", "--dtype", "fp32", *SLOWLY)
    working = folder / (name if name.endswith(".jsonl") else f"{name}.unfinished.jsonl")
    with running(*work, cwd=folder) as first:
        with halted(first, working):
            for more in ("--resume", "--overwrite"):
                second = neoxrun(*work, more, cwd=folder)
                second.check_error(4, f"another run is writing to {name} (process {first.process.pid} on", where=name)
        assert first.finish().code == 0
    assert names(folder) == sorted(["in.txt", name, f"{name}.meta.json"])
    again = neoxrun(*[word for word in work if word != "-q"], "--resume", cwd=folder)
    assert f"nothing to do: {name} already has 12 records" in again.err
