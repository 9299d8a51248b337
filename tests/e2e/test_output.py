"""Where records go, and what is never written over."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from support.command import neoxrun, records_of
from support.snapshots import Snapshot

WORK = ("generate", "demo", "-i", "-", "--tp", "1", "--maximum-tokens", "2", "-q")


def test_stdout_by_its_name() -> None:
    result = neoxrun(*WORK, "-o", "/dev/stdout", stdin="import os\nclass Queue:\n").check_success()
    assert [record["id"] for record in result.records] == [0, 1]


@pytest.mark.parametrize("split", ["1", "2"])
def test_resume_tries_errors_again(split: str, tmp_path: Path, snapshot: Snapshot) -> None:
    """Here with --truncate; answers that are there stay, and with them the rights and the name of the file."""
    file, link = tmp_path / "out.jsonl", tmp_path / "link"
    link.symlink_to(file)
    work = ("generate", "demo", "-i", "-", "--tp", split, "--dtype", "fp32", "--maximum-tokens", "2", "-o", link)
    prompts = "import os\n" + "x = 1; " * 600 + "\nclass Queue:\n"
    snapshot(neoxrun(*work, stdin=prompts).check_error(4, "1 of 3", "--resume"), "first")
    reasons = {record["id"]: record["finish_reason"] for record in records_of(file)}
    assert reasons == {0: "length", 1: "error", 2: "length"}
    file.chmod(0o640)
    answered = [line for line in file.read_text().splitlines() if '"error"' not in line]
    result = neoxrun(*work, "--resume", "--truncate", "left", stdin=prompts).check_success()
    assert "\n1 answer, " in result.err
    snapshot(result, "again")
    *kept, new = file.read_text().splitlines()
    assert kept == answered
    assert json.loads(new)["id"] == 1
    assert json.loads(new)["text"]
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out.jsonl", "out.jsonl.meta.json"]


def test_only_the_same_work_replaces_records(tmp_path: Path, snapshot: Snapshot) -> None:
    file = tmp_path / "out.jsonl"
    neoxrun(*WORK, "-o", file, stdin="import os\nclass Queue:\n").check_success()
    result = neoxrun(*WORK, "-o", file, stdin="import os\nclass Queue:\n").check_success()
    assert all(fact in result.err for fact in (str(file), "2 records"))
    snapshot(result, "same")
    before = file.read_bytes()
    result = neoxrun(*WORK, "-o", file, "--seed", "7", stdin="import os\n")
    snapshot(result.check_error(4, "1234", "7", "--overwrite", where=f"{file}.meta.json"), "other")
    assert file.read_bytes() == before
    result = neoxrun(*WORK, "-o", file, "--seed", "7", "--overwrite", stdin="import os\n").check_success()
    assert "2 records" in result.err
    assert [record["id"] for record in records_of(file)] == [0]
    assert json.loads((tmp_path / "out.jsonl.meta.json").read_text())["seed"] == 7
    assert neoxrun(*WORK, "-o", file, "--seed", "7", "--resume", stdin="import os\n").check_success().err == ""


@pytest.mark.parametrize("command", ["generate", "score"])
def test_the_same_command_does_not_replace_a_part_of_the_records(
    command: str, tmp_path: Path, snapshot: Snapshot
) -> None:
    """--resume continues what an interruption has left, and --overwrite starts over."""
    (tmp_path / "in.txt").write_text("import os\nclass Queue:\n")
    length = ("--maximum-tokens", "2") if command == "generate" else ("--document-end", "\n")
    work = (command, "demo", "-i", "in.txt", "-o", "out.jsonl", "--tp", "1", "-q", *length)
    file = tmp_path / "out.jsonl"
    neoxrun(*work, cwd=tmp_path).check_success()
    whole = file.read_bytes()
    part = whole.splitlines(keepends=True)[0]
    file.write_bytes(part)
    snapshot(neoxrun(*work, cwd=tmp_path).check_error(4, "1 of the 2 records", "--resume", "--overwrite"), command)
    assert file.read_bytes() == part
    for option in ("--resume", "--overwrite"):
        neoxrun(*work, option, cwd=tmp_path).check_success()
        assert [record["id"] for record in records_of(file)] == [0, 1]


def test_resume_continues_only_what_the_same_model_made(tmp_path: Path, snapshot: Snapshot) -> None:
    file = tmp_path / "out.jsonl"
    work = (*WORK, "-o", file, "--resume")
    neoxrun(*WORK, "-o", file, "--dtype", "fp32", stdin="import os\n").check_success()
    others = {
        "number format": ("--dtype", "bf16"),
        "sampling": ("--dtype", "fp32", "--temperature", "0.25"),
        "weights": ("--dtype", "fp32", "--random-weights"),
        "network": ("--dtype", "fp32", "--set", "rotary_pct=0.5"),
    }
    for name, options in others.items():
        for prompts in ("import os\n", "import os\nclass Queue:\n"):  # with nothing to do, too
            result = neoxrun(*work, *options, stdin=prompts).check_error(4, "--resume-anyway")
        if name in ("number format", "sampling"):
            snapshot(result, name)
    assert len(records_of(file)) == 1
    asked = (*WORK, "-o", file, "--resume-anyway", "--dtype", "bf16")
    neoxrun(*asked, stdin="import os\nclass Queue:\n").check_success()
    assert [record["id"] for record in records_of(file)] == [0, 1]
    made = json.loads((tmp_path / "out.jsonl.meta.json").read_text())
    assert (made["dtype"], [one["dtype"] for one in made["earlier"]]) == ("bf16", ["fp32"])


def test_resume_does_not_mix_the_sampling_of_single_prompts(tmp_path: Path) -> None:
    file, prompts = tmp_path / "out.jsonl", tmp_path / "prompts.jsonl"
    work = ("generate", "demo", "-i", prompts, "--tp", "1", "--maximum-tokens", "2", "-q", "-o", file)
    prompts.write_text('{"id": "a", "prompt": "import os", "temperature": 0.75}\n{"id": "b", "prompt": "x"}\n')
    neoxrun(*work).check_success()
    for changed in ('"temperature": 0.25', '"seed": 3', '"top_k": 4, "temperature": 0.75', '"extra": 1'):
        rows = f'{{"id": "a", "prompt": "import os", {changed}}}\n{{"id": "b", "prompt": "x"}}\n'
        prompts.write_text(rows)
        error = neoxrun(*work, "--resume").check_error(4, "--resume-anyway").err
        assert 'the parameters of the prompt "a" differ' in error
    prompts.write_text('{"id": "b", "prompt": "x"}\n{"id": "a", "prompt": "import os", "temperature": 0.75, "k": 1}\n')
    neoxrun(*work, "--resume").check_success()


def test_what_would_replace_or_continue_is_one_of_three(tmp_path: Path) -> None:
    neoxrun(*WORK, "-o", tmp_path / "out", "--resume", "--overwrite", stdin="x\n").check_error(2, "--resume")


def test_a_prompt_alone_that_is_too_long(snapshot: Snapshot) -> None:
    result = neoxrun(*WORK[:2], *WORK[4:], "--prompt", "x = 1; " * 600)
    snapshot(result.check_error(4, "1 of 1"), replace={"x = 1; " * 600: "x = 1; x = 1; ..."})


def test_output_into_a_named_pipe(tmp_path: Path) -> None:
    """Its reader may come before or after, and gets all records of one writer."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        neoxrun(*WORK, "-o", pipe, stdin="import os\nclass Queue:\n", timeout=30).check_success()
        lines = reader.communicate(timeout=5)[0].splitlines()
    assert [json.loads(line)["id"] for line in lines] == [0, 1]
    assert pipe.is_fifo()


@pytest.mark.parametrize("content", [b"important words, no newline", b"\x00\xff\x93 bytes"], ids=["text", "bytes"])
def test_resume_leaves_a_foreign_file_as_it_is(content: bytes, tmp_path: Path, snapshot: Snapshot) -> None:
    path = tmp_path / "precious.txt"
    path.write_bytes(content)
    result = neoxrun(*WORK, "-o", path, "--resume", stdin="import os\n")
    snapshot(result.check_error(4, where=str(path)))
    assert path.read_bytes() == content


@pytest.mark.parametrize("closed", [(0, 1, 2), (1,)])
def test_streams_that_are_closed_and_not_needed(closed: tuple[int, ...], tmp_path: Path) -> None:
    """What is opened next must not take their numbers."""
    (tmp_path / "in.txt").write_text("import os\n")
    work = ("generate", "demo", "-i", tmp_path / "in.txt", "--tp", "2", "--maximum-tokens", "2")
    result = neoxrun(*work, preexec=lambda: [os.close(number) for number in closed]).check_success()
    assert result.out == ""
    assert ("1 answer" in result.err) == (2 not in closed)
    assert [record["id"] for record in records_of(tmp_path / "in.txt.output.jsonl")] == [0]


CLOSED: dict[str, tuple[int, tuple[str, ...], str]] = {
    "help": (1, ("--help",), "standard output"),
    "plan": (1, ("plan", "demo"), "standard output"),
    "text": (1, ("generate", "demo", "--prompt", "import os"), "standard output"),
    "dialogue": (1, ("generate", "demo", "--interactive"), "standard output"),
    "prompts": (0, ("generate", "demo", "-i", "-"), "standard input"),
}


@pytest.mark.parametrize("case", CLOSED)
def test_stream_that_is_closed_and_needed(case: str, tmp_path: Path, snapshot: Snapshot) -> None:
    number, arguments, stream = CLOSED[case]
    result = neoxrun(*arguments, preexec=lambda: os.close(number), env={"TMPDIR": str(tmp_path)})
    snapshot(result.check_error(4, stream))
    assert not list(tmp_path.iterdir())


def test_help_into_a_full_device() -> None:
    with Path("/dev/full").open("w") as full:
        neoxrun("--help", stdout=full.fileno()).check_error(4, "No space left on device")


@pytest.mark.parametrize("flag", ["-i", "-o"])
def test_empty_file_name(flag: str, snapshot: Snapshot) -> None:
    snapshot(neoxrun("generate", "demo", flag, "").check_error(2, "-i", "-o"))


def test_a_file_of_something_else_is_not_replaced(tmp_path: Path, snapshot: Snapshot) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n")
    asked = ("generate", "demo", "--prompt", "import os", "-o", "notes.txt")
    snapshot(neoxrun(*asked, cwd=tmp_path).check_error(4, "notes.txt"))
    assert notes.read_text() == "my notes\n"
    scores = neoxrun("score", "demo", "-i", "notes.txt", "-o", "samples.parquet", cwd=tmp_path)
    scores.check_success()
    (tmp_path / "samples.parquet").write_bytes(b"PAR1 of another program")
    neoxrun("score", "demo", "-i", "notes.txt", "-o", "samples.parquet", cwd=tmp_path).check_error(4, "samples.parquet")
    (tmp_path / "samples.txt").write_text("mine")
    neoxrun("generate", "demo", cwd=tmp_path).check_error(4, "samples.txt")
    assert (tmp_path / "samples.txt").read_text() == "mine"
    neoxrun("generate", "demo", "--maximum-tokens", "2", "--overwrite", cwd=tmp_path).check_success()
    assert len(records_of(tmp_path / "samples.txt")) == 10
    neoxrun("generate", "demo", "--maximum-tokens", "3", cwd=tmp_path).check_error(4, "samples.txt")


def test_records_of_a_parquet_file_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("import os\n" * 3)
    asked = ("score", "demo", "-i", source, "-o", tmp_path / "scores.parquet", "-q")
    assert neoxrun(*asked).check_success().err == ""
    assert neoxrun(*asked).check_success().err == f"warning: {tmp_path}/scores.parquet is replaced; it had 3 records\n"


def test_many_answers_to_a_prompt_are_remarked_on() -> None:
    """As -n is llama.cpp's length of an answer."""
    asked = ("generate", "demo", "--prompt", "x", "--maximum-tokens", "1", "--temperature", "1", "-n")
    remark = "32 answers: -n is the number of answers, --maximum-tokens the length of each\n"
    assert remark in neoxrun(*asked, 32).check_success().err
    assert "-n is" not in neoxrun(*asked, 31).check_success().err


def test_scores_are_replaced_by_the_same_work_only(tmp_path: Path, snapshot: Snapshot) -> None:
    source, file = tmp_path / "in.txt", tmp_path / "in.txt.scores.jsonl"
    source.write_text("import os\n")
    neoxrun("score", "demo", "-i", source, "-q").check_success()
    assert "1 record" in neoxrun("score", "demo", "-i", source, "-q").check_success().err
    before = file.read_bytes()
    result = neoxrun("score", "demo", "-i", source, "--top", "2").check_error(4, "--overwrite")
    snapshot(result)
    neoxrun("score", "demo", "-i", source, "--top", "2", "--resume").check_error(4, "top was 0, is 2")
    assert file.read_bytes() == before
    source.write_text("import sys\n")
    neoxrun("score", "demo", "-i", source).check_error(4, "the texts differ")
    neoxrun("score", "demo", "-i", source, "--overwrite", "-q").check_success()
    assert records_of(file)[0]["text"] == "import sys"
