"""Where records go, and what is never written over."""

from __future__ import annotations

import pytest
from cli import neoxrun

WORK = ("generate", "demo", "-i", "-", "--tp", "1", "--maximum-tokens", "2", "-q")


def test_stdout_by_its_name():
    result = neoxrun(*WORK, "-o", "/dev/stdout", stdin="import os\nclass Queue:\n").check_success()
    assert [record["id"] for record in result.records] == [0, 1]


@pytest.mark.parametrize("content", [b"important words, no newline", b"\x00\xff\x93 bytes"])
def test_resume_leaves_a_foreign_file_as_it_is(content, tmp_path):
    path = tmp_path / "precious.txt"
    path.write_bytes(content)
    neoxrun(*WORK, "-o", path, "--resume", stdin="import os\n").check_error(4, "not an output record")
    assert path.read_bytes() == content


@pytest.mark.parametrize("flag", ["-i", "-o"])
def test_empty_file_name(flag):
    neoxrun("generate", "demo", flag, "").check_error(2, "need the name of a file")
