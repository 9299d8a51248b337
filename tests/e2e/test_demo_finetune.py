"""scripts/demo-finetune as a newcomer runs it, with few steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.command import NEOXRUN
from support.paths import ROOT

FEW = ("5", "--batch-size", "4", "--eval-iters", "2", "--device", "cpu")


@pytest.mark.slow
def test_the_demo_lowers_the_loss_and_answers_from_what_it_trained(tmp_path: Path) -> None:
    venv, runs = tmp_path / "venv", tmp_path / "runs"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "neoxrun").symlink_to(NEOXRUN)
    (venv / "bin" / "python").symlink_to(sys.executable)
    environment = {**os.environ, "NEOXRUN_VENV": str(venv), "NEOXRUN_DEMO_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
    # What this interpreter has counts as installed, so nothing is.
    stamp = 'source scripts/_setup; setup_key >"$venv/neoxrun-installed-finetune"'
    subprocess.run(["bash", "-c", stamp], cwd=ROOT, env=environment, check=True, timeout=30)

    script = [ROOT / "scripts" / "demo-finetune", *FEW]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[-2:]
    for line, name in zip(lines, ("adapter", "whole model"), strict=True):
        found = re.fullmatch(rf"{name}: loss on other speeches (\d\.\d\d) -> (\d\.\d\d)", line)
        assert found, line
        assert float(found[2]) < float(found[1]) - 0.3, line
    commands = re.findall(r"^\$ neoxrun (\w+ \S+)", done.stderr, re.MULTILINE)
    assert commands == ["generate demo", "finetune demo", "generate demo", "finetune demo", f"generate {runs}/whole"]
    assert f"--adapter {runs}/lora/global_step5 " in done.stderr
    assert "setup:" not in done.stderr
