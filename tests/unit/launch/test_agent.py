"""Which of several failures of ranks is the cause."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from neoxrun.errors import CheckpointError, NeoxrunError, RankError
from neoxrun.launch import agent
from neoxrun.launch.job import Failure, Job, failure_of

LOST = RankError("lost contact", code="lost_contact")
DAMAGED = CheckpointError("x.pt is damaged", code="damaged_file")


def ended(rank: int, code: int) -> ProcessFailure:
    return ProcessFailure(rank, 1000 + rank, code, error_file="none")


def work(**how: Any) -> Job:
    plan: Any = None
    return Job("generate", plan, plan, kept="It is kept.", **how)


def cause(died: dict[int, int], reported: dict[int, NeoxrunError], logs: Path, **how: Any) -> Failure:
    left = {rank: failure_of(error, rank, verbose=False) for rank, error in reported.items()}
    return agent._cause({rank: ended(rank, code) for rank, code in died.items()}, left, logs, work(**how))


def test_what_a_rank_reports_comes_before_lost_contact(tmp_path: Path) -> None:
    found = cause({0: 5, 1: 3}, {0: LOST, 1: DAMAGED}, tmp_path)
    assert (found.rank, found.code, found.exit_code) == (1, "damaged_file", 3)


def test_a_killed_rank_comes_before_those_that_torchrun_ended(tmp_path: Path) -> None:
    found = cause({0: -signal.SIGTERM, 1: -signal.SIGKILL, 2: 5}, {2: LOST}, tmp_path)
    assert (found.rank, found.code, found.exit_code) == (1, "rank_died", 5)
    assert "process 1001) was killed by SIGKILL" in found.text
    assert "see `dmesg`. It is kept." in found.text
    assert "code:" not in found.text


def test_a_rank_that_ended_without_a_report_shows_its_last_lines(tmp_path: Path) -> None:
    folder = tmp_path / "attempt" / "1"
    folder.mkdir(parents=True)
    (folder / "stderr.log").write_text("".join(f"line {number}\n" for number in range(40)))
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


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError(), "out_of_memory", "out of memory"),
        (OSError("no route to host"), "failed_start", "no route to host"),
    ],
)
def test_torchrun_that_cannot_start(
    error: Exception,
    code: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Plan:
        nnodes = tp = pp = replicas = 1

    def fail(arguments: object) -> None:
        raise error

    monkeypatch.setattr(agent, "torchrun", fail)
    folder = tmp_path / "job"
    folder.mkdir()
    plan: Any = Plan()
    assert agent.main(Job("generate", plan, plan, kept="It is kept.", verbosity=1), folder) == 5
    said = capsys.readouterr().err
    assert f"error: {'torchrun could not start the ranks: ' if code == 'failed_start' else ''}{says}" in said
    assert said.endswith(f"code: {code}\n")
    assert not folder.exists()
