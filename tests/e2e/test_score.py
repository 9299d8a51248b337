"""`neoxrun score` as a user runs it: streams, interruptions, and what continues them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from support.command import neoxrun, records_of, running, wait_for

FIXED = ("--dtype", "fp32", "--tp", 1)


def test_stdin_to_stdout(tmp_path: Path) -> None:
    lines = '{"text": "import os"}\n{"text": "x = 1", "id": "b"}\n'
    done = neoxrun("score", "demo", "-i", "-", "-o", "-", *FIXED, stdin=lines).check_success()
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [(record["id"], record["text"]) for record in records] == [(0, "import os"), ("b", "x = 1")]
    assert "perplexity per token" in done.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_seconds_are_kept(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """Records come early, although a pass has thousands of tokens, and the message says how many there are."""
    given, output = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    text = "def f(path):\n    return path\n" * 9
    given.write_text((json.dumps({"text": text}) + "\n") * 9000)
    with running("score", "demo", "-i", given, "-o", output, *FIXED) as command:
        wait_for(lambda: output.exists() and output.stat().st_size > 0, 90, lambda: "no records came")
        assert output.read_bytes().count(b"\n") < 100
        command.process.send_signal(number)
        result = command.finish(timeout=30)
        command.check_all_gone()
    count = output.read_bytes().count(b"\n")
    says = f"{'interrupted' if code == 130 else 'ended by SIGTERM'} after {count} of 9000 documents"
    result.check_error(code, says, f"Their records are in {output}; continue with --resume.")


def test_an_interrupted_run_continues(tmp_path: Path) -> None:
    given, output, whole = tmp_path / "a.jsonl", tmp_path / "out.parquet", tmp_path / "whole.jsonl"
    texts = [f"def function_{n}(path):\n    return path + {n}\n" * 4 for n in range(600)]
    given.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    asked = ["demo", "-i", given, "--level", "document", *FIXED]
    kept = tmp_path / "out.parquet.unfinished.jsonl"
    slowly = [*asked, "-o", output, "--batch-size", 1]
    with running("score", *slowly) as command:
        wait_for(lambda: kept.exists() and kept.stat().st_size > 0, 90, lambda: "no records came")
        command.interrupt()
        result = command.finish(timeout=30)
        command.check_all_gone()
    result.check_error(130, "--resume")
    assert not output.exists()
    lines = kept.read_bytes()
    assert 0 < lines.count(b"\n") < 600
    kept.write_bytes(lines + b'{"id": 39')  # as a killed run leaves it
    neoxrun("score", *asked, "-o", output, "--resume", "--context", 50).check_error(4, "context was 512, is 50")
    neoxrun("score", *asked, "-o", output, "--resume", "--replicas", 2).check_success()
    summary = json.loads(neoxrun("score", *asked, "-o", whole, "--json").check_success().out)
    again = neoxrun("score", *asked, "-o", output, "--resume", "--json").check_success()
    assert "nothing to do" in again.err
    told = json.loads(again.out)
    assert told["documents"] == 600
    assert abs(told["logprob"] - summary["logprob"]) < 1e-2
    assert [record["text"] for record in records_of(whole)] == texts
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.jsonl",
        "out.parquet",
        "out.parquet.meta.json",
        "whole.jsonl",
        "whole.jsonl.meta.json",
    }
