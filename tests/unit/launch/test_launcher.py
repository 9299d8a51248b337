"""What this process becomes for a job: a worker or the agent, and with which environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from neoxrun.errors import RankError, UsageError
from neoxrun.launch import launcher
from neoxrun.launch.job import Job, load_job
from neoxrun.launch.termination import hold_interrupts
from neoxrun.planning.devices import cpu_device
from support.plans import PUBLISHED, planned

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Replaced(Exception):
    """Raised where the process would be replaced."""

    def __init__(self, program: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.program, self.arguments, self.environment = program, arguments, environment


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No world, a folder for jobs, and a record of what would replace this process."""
    for name in [*os.environ]:
        if name in LAUNCHED or name.startswith(("SLURM_", "OMP_", "TORCH_CPP", "CUDA_DEVICE_ORDER")):
            monkeypatch.delenv(name)

    def replace(program: str, arguments: list[str], environment: dict[str, str]) -> None:
        raise Replaced(program, arguments, environment)

    monkeypatch.setattr(launcher.os, "execve", replace)
    monkeypatch.setattr(launcher, "hold_interrupts", lambda: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def job(*, kind: str = "cuda", verbosity: int = 0, **requested: Any) -> Job:
    plan = planned("pythia-14m", "4x80GB" if kind == "cuda" else "80GB", kind, **requested)
    return Job("generate", PUBLISHED["pythia-14m"][0], plan, verbosity=verbosity, kept="It is kept.")


def started(work: Job) -> tuple[str, dict[str, str]]:
    """The role and the environment of the program that replaces this one for ``work``."""
    with pytest.raises(Replaced) as caught:
        launcher.run_job(work)
    [python, flag, module, role, folder] = caught.value.arguments
    assert caught.value.program == python == sys.executable
    assert (flag, module) == ("-m", "neoxrun.launch.start")
    assert load_job(Path(folder)) == work
    return role, caught.value.environment


@pytest.mark.parametrize(
    ("split", "role"),
    [
        ({"tp": 1, "pp": 1, "replicas": 1}, "worker"),
        ({"tp": 2, "pp": 1, "replicas": 1}, "agent"),
        ({"tp": 1, "pp": 2, "replicas": 1}, "agent"),
        ({"tp": 1, "pp": 1, "replicas": 2}, "agent"),
    ],
)
def test_without_a_world_only_a_single_rank_needs_no_agent(split: dict[str, int], role: str) -> None:
    became, environment = started(job(**split))
    assert became == role
    assert not set(LAUNCHED) & environment.keys()
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_rank_of_torchrun_is_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    world = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**world, "MASTER_ADDR": "head", "MASTER_PORT": "4711"}.items():
        monkeypatch.setenv(name, value)
    role, environment = started(job(tp=2, pp=1, replicas=1))
    assert role == "worker"
    assert environment.items() >= {**world, "MASTER_ADDR": "head", "MASTER_PORT": "4711"}.items()


def test_a_rank_of_srun_is_a_worker_with_torchruns_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "gpu7"}
    for name, value in tasks.items():
        monkeypatch.setenv(name, value)
    role, environment = started(job(tp=2, pp=1, replicas=1))
    assert role == "worker"
    expected = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "gpu7"}
    assert environment.items() >= expected.items()


def test_a_world_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError) as caught:
        launcher.run_job(job(tp=2, pp=1, replicas=1))
    assert caught.value.code == "wrong_number_of_ranks"
    assert "3 ranks" in caught.value.message
    assert "2 processes" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


def test_half_of_a_world_is_not_passed_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    role, environment = started(job(tp=2, pp=1, replicas=1))
    assert role == "agent"
    assert not set(LAUNCHED) & environment.keys()


def test_ranks_on_the_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = job(kind="cpu", tp=1, pp=1, replicas=1), job(kind="cpu", tp=2, pp=1, replicas=1)
    cores = cpu_device().cores
    assert started(one)[1]["OMP_NUM_THREADS"] == str(cores)
    assert started(two)[1]["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert started(two)[1]["OMP_NUM_THREADS"] == "5", "what the user has set is kept"


def test_waiting_threads_give_their_cores_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = job(kind="cpu", tp=1, pp=1, replicas=1)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert started(on_cpu)[1]["GOMP_SPINCOUNT"] == "3000"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in started(on_cpu)[1], "what the user has set is kept"


def test_torchs_own_log_is_shown_with_verbose_alone() -> None:
    assert started(job())[1]["TORCH_CPP_LOG_LEVEL"] == "ERROR"
    assert "TORCH_CPP_LOG_LEVEL" not in started(job(verbosity=1))[1]


def test_a_job_that_cannot_start_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(program: str, arguments: list[str], environment: dict[str, str]) -> None:
        raise OSError("no such program")

    monkeypatch.setattr(launcher.os, "execve", fail)
    with pytest.raises(OSError, match="no such program"):
        launcher.run_job(job())
    assert not list(tmp_path.iterdir())


def child(monkeypatch: pytest.MonkeyPatch, program: str) -> Job:
    """A job whose child runs this program in place of a worker."""
    monkeypatch.setattr(launcher, "PROGRAM", (sys.executable, "-c", program))
    return job(kind="cpu", tp=1, pp=1, replicas=1)


def test_a_child_runs_a_job_and_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
    said = "import os, sys; print('data'); print(sys.argv[1:4:2], os.getpgrp() == os.getpid(), file=sys.stderr)"
    before = list(Path("/proc/self/fd").iterdir())
    assert launcher.run_child(child(monkeypatch, f"{said}; sys.exit(4)")) == 4
    assert capfd.readouterr() == ("", f"['worker', '{os.getpid()}'] True\n")
    assert not list(tmp_path.iterdir())
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before), "the lock is given up"


def test_a_child_that_is_killed_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RankError, match="killed by signal 9") as caught:
        launcher.run_child(child(monkeypatch, "import os; os.kill(os.getpid(), 9)"))
    assert caught.value.code == "rank_died"
    assert "It is kept." in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_is_passed_on_to_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent interrupts itself as soon as the child can answer, and waits for its exit code."""
    monkeypatch.setattr(launcher, "hold_interrupts", hold_interrupts)
    program = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda number, frame: sys.exit(130))
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
os.kill(int(sys.argv[3]), signal.SIGINT)
signal.pause()
"""
    assert launcher.run_child(child(monkeypatch, program)) == 130


def test_ctrl_c_that_a_thread_takes_while_the_child_starts_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a download in another thread the signal is not held back, though the main thread blocks it."""
    monkeypatch.setattr(launcher, "hold_interrupts", hold_interrupts)
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(*arguments, **options))
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(50):  # the thread takes the signal, and then this one answers between two of these
            time.sleep(0.01)
        return started[0]

    monkeypatch.setattr(launcher, "subprocess", types.SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))
    program = """
import signal, sys
signal.signal(signal.SIGINT, lambda number, frame: sys.exit(130))
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
signal.sigtimedwait([], 60)
"""
    work = child(monkeypatch, program)
    before, end = signal.getsignal(signal.SIGINT), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert launcher.run_child(work) == 130
    finally:
        end.set()
        thread.join()
        for one in started:
            one.kill()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_comes_too_late_for_the_child_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda number, frame: sys.exit(0))
os.kill(int(sys.argv[3]), signal.SIGINT)
signal.pause()
"""
    with pytest.raises(KeyboardInterrupt):
        launcher.run_child(child(monkeypatch, program))
