"""The child process that works for a program: its start from any thread, its end, and what is known of that."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from neoxrun.errors import RankError
from neoxrun.launch import child
from neoxrun.launch.child import ChildJob
from neoxrun.launch.job import Job, failure_of
from support.plans import PUBLISHED, planned


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*os.environ]:
        if name in ("RANK", "WORLD_SIZE") or name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def made(monkeypatch: pytest.MonkeyPatch, program: str) -> ChildJob:
    """A child that runs ``program``, with the role, the folder and this process's id as arguments."""
    monkeypatch.setattr(child, "PROGRAM", (sys.executable, "-c", program))
    settings = PUBLISHED["pythia-14m"][0]
    plan = planned("pythia-14m", "80GB", "cpu", tp=2)
    return ChildJob(Job("serve", settings, plan, kept="Make another.", owned=True))


def test_a_child_outlives_the_thread_that_has_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys, time; assert sys.argv[1] == 'agent'; time.sleep(0.5); sys.exit(7)"
    job = made(monkeypatch, program)
    starter = threading.Thread(target=job.start)
    starter.start()
    starter.join()
    assert job.ended.wait(30)
    assert str(job.failure()).startswith("the process that watches the ranks ended with exit code 7")
    assert job.failure().hint == "Make another."
    job.end(0)
    assert not job.folder.exists()


def test_a_child_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    job = made(monkeypatch, "import time; time.sleep(60)")
    job.start()
    assert not job.ended.is_set()
    job.end(0.1)
    assert job.ended.is_set()
    assert "was killed by signal 9" in str(job.failure())
    assert job.failure().code == "rank_died"
    job.end(0)


def test_the_cause_that_the_child_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    job = made(monkeypatch, "")
    error = RankError("rank 1 has died", code="rank_died", hint="Look.")
    failure_of(error, 1, verbose=False).save_as_cause(job.folder)
    job.start()
    assert job.ended.wait(30)
    assert str(job.failure()) == str(error)
    job.end(0)


def test_a_system_that_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    job = made(monkeypatch, "")
    monkeypatch.setattr(child, "PROGRAM", ("/no/such/program",))
    with pytest.raises(FileNotFoundError):
        job.start()
    assert job.ended.is_set()
    job.end(0)
    assert not job.folder.exists()
