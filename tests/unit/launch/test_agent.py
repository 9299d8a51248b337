"""How ranks are started, watched and ended, and which of several failures is the cause."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neoxrun.errors import CheckpointError, NeoxrunError, RankError
from neoxrun.launch import agent
from neoxrun.launch.job import Failure, Job, failure_of

LOST = RankError("lost contact", code="lost_contact")
DAMAGED = CheckpointError("x.pt is damaged", code="damaged_file")


def work(**how: Any) -> Job:
    plan: Any = None
    return Job("generate", plan, plan, kept="It is kept.", **how)


def cause(died: dict[int, int], reported: dict[int, NeoxrunError], folder: Path, **how: Any) -> Failure:
    left = {rank: failure_of(error, rank, verbose=False) for rank, error in reported.items()}
    deaths = {rank: agent.Death(1000 + rank, code) for rank, code in died.items()}
    return agent._cause(deaths, left, folder, work(**how))


def test_what_a_rank_reports_comes_before_lost_contact(tmp_path: Path) -> None:
    found = cause({0: 5, 1: 3}, {0: LOST, 1: DAMAGED}, tmp_path)
    assert (found.rank, found.code, found.exit_code) == (1, "damaged_file", 3)


def test_a_killed_rank_comes_before_one_that_ended(tmp_path: Path) -> None:
    found = cause({0: 1, 1: -signal.SIGKILL, 2: 5}, {2: LOST}, tmp_path)
    assert (found.rank, found.code, found.exit_code) == (1, "rank_died", 5)
    assert "process 1001) was killed by SIGKILL" in found.text
    assert "see `dmesg`. It is kept." in found.text
    assert "code:" not in found.text


def test_a_rank_that_ended_without_a_report_shows_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "rank-1.log").write_text("".join(f"line {number}\n" for number in range(40)))
    found = cause({1: 1}, {0: LOST}, tmp_path, verbosity=1)
    assert (found.rank, found.code) == (1, "rank_died")
    assert "ended with exit code 1\n    line 25\n" in found.text
    assert "\n    line 39\n" in found.text
    assert found.text.endswith("\ncode: rank_died")


def test_lost_contact_is_the_cause_where_there_is_no_other(tmp_path: Path) -> None:
    found = cause({0: 5, 1: 5}, {1: LOST, 0: LOST}, tmp_path)
    assert (found.rank, found.code, found.exit_code) == (0, "lost_contact", 5)


def test_a_signal_without_a_name(tmp_path: Path) -> None:
    assert f"was killed by signal {signal.SIGRTMIN + 3}" in cause({0: -(signal.SIGRTMIN + 3)}, {}, tmp_path).text


class Plan:
    """Two hosts with two ranks each, or one with two."""

    tp, pp, replicas = 2, 1, 1

    def __init__(self, nnodes: int = 1) -> None:
        self.nnodes, self.replicas = nnodes, nnodes


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """What every rank runs: ``rank.sh``, which a test writes; the folder of the job is next to it."""
    path = tmp_path / "rank.sh"
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\nexec /bin/sh {path}\n")
    interpreter.chmod(0o700)
    monkeypatch.setattr(agent.sys, "executable", str(interpreter))
    for name in ("OMP_NUM_THREADS", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(agent, "_GRACE_SECONDS", 0.2)
    before = {number: signal.getsignal(number) for number in agent._ENDING}
    yield path
    for number, handler in before.items():
        signal.signal(number, handler)


def run(program: Path, script: str, *, nnodes: int = 1, **how: Any) -> int:
    """The exit code of a job whose ranks run ``script`` in a shell; $OUT is the folder for what they write."""
    folder = program.parent / "job"
    folder.mkdir()
    program.write_text(f"OUT={program.parent}\n{script}")
    plan: Any = Plan(nnodes)
    code = agent.main(Job("generate", plan, plan, kept="It is kept.", **how), folder)
    assert not folder.exists()
    return code


def test_what_a_rank_finds_in_its_environment(program: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    script = f"echo {' '.join(f'${name}' for name in names)} > $OUT/$RANK"
    assert run(program, script, nnodes=2, node_rank=1, rendezvous="head:4711") == 0
    assert [(program.parent / name).read_text() for name in "23"] == ["2 0 4 2 head 4711 1\n", "3 1 4 2 head 4711 1\n"]
    assert not (program.parent / "0").exists()


def test_ranks_of_one_host_meet_at_a_free_port(program: Path) -> None:
    assert run(program, "echo $MASTER_ADDR $MASTER_PORT > $OUT/$RANK") == 0
    first, second = ((program.parent / name).read_text().split() for name in "01")
    assert first == second
    assert first[0] == "127.0.0.1"
    assert 0 < int(first[1]) < 2**16


def test_only_rank_0_has_stdin_and_stdout(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(program, "echo out $RANK; echo err $RANK >&2; [ $RANK = 0 ] || wc -c >&2") == 0
    assert capfd.readouterr() == ("out 0\n", "err 0\n")


def test_verbose_ranks_are_all_heard(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(program, "echo out $RANK; echo err $RANK >&2", verbosity=1) == 0
    out, err = capfd.readouterr()
    assert (out, sorted(err.splitlines())) == ("out 0\n", ["err 0", "err 1"])


def test_a_rank_that_dies_ends_the_others(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also those that ignore the signal that asks them to."""
    deaf = "[ $RANK = 0 ] && trap '' TERM && touch $OUT/up && sleep 60"
    script = f"{deaf}; while [ ! -e $OUT/up ]; do sleep 0.01; done; exit 7"
    start = time.monotonic()
    assert run(program, script) == 5
    assert time.monotonic() - start < 30
    assert "ended with exit code 7" in capfd.readouterr().err


def test_a_signal_reaches_the_ranks(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert (
        run(program, "trap 'echo asked > $OUT/$RANK; exit 1' TERM; while :; do sleep 0.05; done")
        == 128 + signal.SIGTERM
    )
    assert (program.parent / "0").exists()
    assert (program.parent / "1").exists()
    assert capfd.readouterr() == ("", "")


def test_a_rank_that_cannot_be_started(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent.sys, "executable", str(program.parent / "nothing"))
    with pytest.raises(RankError, match=r"rank 0 could not be started: .*nothing") as caught:
        run(program, "")
    assert caught.value.code == "failed_start"
