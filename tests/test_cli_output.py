"""Where records go, and what is never written over."""

from __future__ import annotations

import json

import pytest
from cli import neoxrun, records_of

WORK = ("generate", "demo", "-i", "-", "--tp", "1", "--maximum-tokens", "2", "-q")


def test_stdout_by_its_name():
    result = neoxrun(*WORK, "-o", "/dev/stdout", stdin="import os\nclass Queue:\n").check_success()
    assert [record["id"] for record in result.records] == [0, 1]


@pytest.mark.parametrize("split", ["1", "2"])
def test_resume_tries_errors_again(split, tmp_path):
    """Here with --truncate; answers that are there stay, and with them the rights and the name of the file."""
    file, link = tmp_path / "out.jsonl", tmp_path / "link"
    link.symlink_to(file)
    work = ("generate", "demo", "-i", "-", "--tp", split, "--maximum-tokens", "2", "-o", link)
    prompts = "import os\n" + "x = 1; " * 600 + "\nclass Queue:\n"
    neoxrun(*work, stdin=prompts).check_error(4, "1 of 3 prompts could not be answered", "--resume")
    reasons = {record["id"]: record["finish_reason"] for record in records_of(file)}
    assert reasons == {0: "length", 1: "error", 2: "length"}
    file.chmod(0o640)
    answered = [line for line in file.read_text().splitlines() if '"error"' not in line]
    result = neoxrun(*work, "--resume", "--truncate", "left", stdin=prompts).check_success()
    assert "\n1 answer, " in result.err
    *kept, new = file.read_text().splitlines()
    assert kept == answered
    assert json.loads(new)["id"] == 1
    assert json.loads(new)["text"]
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out.jsonl"]


def test_a_prompt_alone_that_is_too_long():
    neoxrun(*WORK[:2], *WORK[4:], "--prompt", "x = 1; " * 600).check_error(4, "1 of 1 prompt could not be answered")


@pytest.mark.parametrize("content", [b"important words, no newline", b"\x00\xff\x93 bytes"])
def test_resume_leaves_a_foreign_file_as_it_is(content, tmp_path):
    path = tmp_path / "precious.txt"
    path.write_bytes(content)
    neoxrun(*WORK, "-o", path, "--resume", stdin="import os\n").check_error(4, "not an output record")
    assert path.read_bytes() == content


@pytest.mark.parametrize("flag", ["-i", "-o"])
def test_empty_file_name(flag):
    neoxrun("generate", "demo", flag, "").check_error(2, "need the name of a file")
