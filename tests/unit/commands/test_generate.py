"""What `neoxrun generate` plans for."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.cli import main
from neoxrun.launch import launcher
from neoxrun.launch.job import Job
from neoxrun.planning import devices
from neoxrun.planning.request import DIALOGUE, TYPICAL_PROMPTS, Work
from support.plans import gpus

TEXTS = ["four", "twelve chars", "sixteen letters."]


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that would be started, in a folder with a file of prompts."""
    started: list[Job] = []

    def keep(job: Job) -> None:
        started.append(job)
        raise SystemExit(0)

    monkeypatch.setattr(launcher, "run_job", keep)
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("\n".join(TEXTS))
    Path("prompts.jsonl").write_text('{"prompt": "abcd", "maximum_tokens": 40, "n": 3}\n{"prompt": ""}\n')
    return started


@pytest.mark.parametrize(
    ("arguments", "work"),
    [
        (["--prompt", TEXTS[1], "--maximum-tokens", "7"], Work(1, 3, 7, 7)),
        (["--prompt", TEXTS[1], "--maximum-tokens", "7", "-n", "20"], Work(20, 3, 7, 7)),
        (["-i", "prompts.txt", "--maximum-tokens", "7"], Work(3, 2, 7, 7)),
        (["-i", "prompts.jsonl", "--maximum-tokens", "8"], Work(4, 1, 32, 40)),
        (["--prompt", "", "--maximum-tokens", "999999"], Work(1, 1, 512, 512)),  # the demo model's context
        (["--interactive"], DIALOGUE),
        # The other host does not read the prompts, and must make the same plan.
        (["-i", "prompts.txt", "--nnodes", "2", "--rdzv-endpoint", "host:29500"], TYPICAL_PROMPTS),
    ],
)
def test_the_plan_is_for_the_prompts(jobs: list[Job], arguments: list[str], work: Work) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "demo", "--device", "cpu", *arguments])
    assert [job.plan.decision.requested.work for job in jobs] == [work]


@pytest.mark.parametrize(("count", "shown"), [(1, False), (2, True)])
def test_on_several_gpus_it_says_why_it_divides_the_model_so(
    count: int, shown: bool, jobs: list[Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda chosen: gpus(count, "NVIDIA H100 80GB HBM3", 80))
    with pytest.raises(SystemExit):
        main(["generate", "demo", "-i", "prompts.txt"])
    (job,) = jobs
    assert (job.plan.device_kind, job.plan.world_size) == ("cuda", 1)
    assert ("The fastest split for 3 prompts of 2 tokens and 96 new tokens each" in capsys.readouterr().err) == shown
