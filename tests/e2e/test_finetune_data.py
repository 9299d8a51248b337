"""Data that `neoxrun finetune` refuses before it loads anything, as a user meets it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.command import neoxrun, running, wait_for
from support.training_data import INT32, write_packed, write_rows

WHERE = ("--device", "cpu", "--tp", 1)


def test_rows_are_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "x = 1"}, {"prompt": "a", "completions": "b"}])
    done = neoxrun("finetune", "demo", "--data", path, "--output", tmp_path / "run", *WHERE)
    message = 'a row needs a text under "text", or "prompt" and "completion", or "messages"'
    done.check_error(4, message, "Did you mean completion?", where=f"{path}:2")


def test_there_is_nothing_to_learn(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    packed = write_packed(tmp_path / "short", [[1], [2]])
    for path, message in (
        (tmp_path / "empty.jsonl", f"there are no documents in {tmp_path / 'empty.jsonl'}"),
        (packed, f"no document in {packed} has more than one token, so there is nothing to learn"),
    ):
        done = neoxrun("finetune", "demo", "--data", path, "--output", tmp_path / "run", *WHERE)
        done.check_error(4, message)


def test_packed_data_are_damaged(tmp_path: Path) -> None:
    packed = write_packed(tmp_path / "a", [[1, 2, 3], [4, 5]], INT32)
    (tmp_path / "a.bin").write_bytes(bytes(8))
    done = neoxrun("finetune", "demo", "--data", packed, "--output", tmp_path / "run", *WHERE)
    message = f"{tmp_path / 'a.idx'} names tokens that {tmp_path / 'a.bin'} does not have"
    done.check_error(4, message, "Copy both files again, or pack the texts again.", where=str(tmp_path / "a.idx"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_encoding_is_interrupted(number: signal.Signals, code: int, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", ({"text": f"x = {n}\n" * 2000} for n in range(3000)))
    with running("finetune", "demo", "--data", path, "--output", tmp_path / "run", *WHERE) as command:
        wait_for(lambda: bool(list(tmp_path.rglob("*.bin.partial"))), 90, lambda: "nothing is encoded")
        command.process.send_signal(number)
        result = command.finish(timeout=60)
    assert result.code == code, result.err
    assert not list(tmp_path.rglob("*.idx"))
