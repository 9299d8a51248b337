"""A rank that is stuck in a pass is noticed, with where it is; one that computes or has nothing to do is not."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from neoxrun.engine.pulse import Pulse
from neoxrun.launch.watch import Watch

def waits_for_ever():
    time.sleep(60)

def computes():
    end = time.monotonic() + 4
    while time.monotonic() < end:
        sum(range(10000))

def report(error):
    print(error.render(verbose=True), flush=True)

pulse = Pulse()
how = dict(timeout=1.2, folder=FOLDER, on_cpu=ON_CPU, kept=lambda: "It is kept.", report=report)
with Watch(pulse, RANK, replica=REPLICA, **how):
    WORK
print("done")
"""


def program(work: str, folder: Path | None, *, rank: int = 2, replica: int = 0, on_cpu: bool = True) -> list[str]:
    words = {
        "WORK": textwrap.indent(work, "    ").lstrip(),
        "ON_CPU": str(on_cpu),
        "FOLDER": "None" if folder is None else f"__import__('pathlib').Path({str(folder)!r})",
        "RANK": str(rank),
        "REPLICA": str(replica),
    }
    text = PROGRAM
    for name, word in words.items():
        text = text.replace(name, word)
    return [sys.executable, "-c", text]


def run(work: str, *, folder: Path | None = None, on_cpu: bool = True) -> tuple[int, str]:
    words = program(work, folder, on_cpu=on_cpu)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return done.returncode, done.stdout


@contextlib.contextmanager
def rank(number: int, replica: int, work: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A rank that is watched and watches, until it ends."""
    words = program(work, folder, rank=number, replica=replica)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("alone", [True, False])
def test_a_pass_that_does_not_end(alone: bool, tmp_path: Path) -> None:
    code, text = run("with pulse:\n    waits_for_ever()", folder=None if alone else tmp_path)
    assert code == 5
    assert "rank 2 on " in text
    assert "has made no step for 1.2 s" in text
    assert "in waits_for_ever" in text
    assert "hint: It is kept. --stall-timeout SECONDS waits longer.\ncode: stuck_rank\n" in text


def test_a_pass_that_computes_on_a_cpu() -> None:
    assert run("with pulse:\n    computes()") == (0, "done\n")
    code, text = run("with pulse:\n    computes()", on_cpu=False)  # there a process that waits for a GPU looks like it
    assert code == 5
    assert "in computes" in text


@pytest.mark.parametrize("work", ["time.sleep(4)", "for _ in range(30):\n    with pulse:\n        time.sleep(0.1)"])
def test_waiting_between_passes_and_many_short_ones(work: str, tmp_path: Path) -> None:
    assert run(work, folder=tmp_path) == (0, "done\n")
    assert {path.name for path in tmp_path.iterdir()} == {"rank-2.stack"}


def test_another_rank_without_a_sign_of_life(tmp_path: Path) -> None:
    """It is named, and ended: here a process that has never answered."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        (tmp_path / "rank-1.alive").write_text(json.dumps([other.pid, 7, False, 3]))
        (tmp_path / "rank-1.stack").touch()
        other.send_signal(19)  # SIGSTOP
        code, text = run("waits_for_ever()", folder=tmp_path)
        assert code == 5
        assert f"(process {other.pid}) has made no step for 1.2 s, and does not answer" in text
        assert text.startswith("error: rank 1 on ")
        assert other.wait(30) == -9


def test_a_rank_that_has_done_its_work_is_not_missed(tmp_path: Path) -> None:
    assert run("pass", folder=tmp_path) == (0, "done\n")
    assert run("time.sleep(2)", folder=tmp_path) == (0, "done\n")


SHORT_PASSES = "for _ in range(40):\n    with pulse:\n        time.sleep(0.1)"
STUCK = "pulse.passes = 1000\nwith pulse:\n    waits_for_ever()"


@pytest.mark.parametrize("replica", [0, 1])
def test_a_live_rank_is_not_blamed_for_a_stuck_one(replica: int, tmp_path: Path) -> None:
    """However few passes it has made."""
    with rank(0, 0, SHORT_PASSES, tmp_path) as live, rank(3, replica, STUCK, tmp_path) as stuck:
        assert stuck.stdout is not None
        assert stuck.wait(30) == 5
        assert stuck.stdout.read().startswith("error: rank 3 on ")
        (tmp_path / "rank-3.alive").unlink()  # here the job continues
        assert live.wait(30) == 0


def test_what_another_replica_computes_does_not_hide_a_stuck_rank(tmp_path: Path) -> None:
    with rank(0, 0, "while True:\n    computes()", tmp_path), rank(3, 1, STUCK, tmp_path) as stuck:
        assert stuck.wait(30) == 5


def test_a_rank_waits_for_one_of_its_replica_that_computes(tmp_path: Path) -> None:
    with rank(0, 1, "computes()", tmp_path), rank(1, 1, "with pulse:\n    time.sleep(3)", tmp_path) as waits:
        assert waits.wait(30) == 0


def test_a_sign_that_cannot_be_written_is_not_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "rank-2.alive").write_text("[]")
    (tmp_path / "rank-2.alive-unfinished").mkdir()  # as on a full disk
    look = f"time.sleep(0.5)\nimport os\nprint(sorted(os.listdir({str(tmp_path)!r})))"
    assert run(look, folder=tmp_path) == (0, "['rank-2.alive-unfinished', 'rank-2.stack']\ndone\n")
