"""A thousand faults and dozens of kills: the benchmark's own checks, with another seed than the one recorded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.paths import ROOT

STORM = ROOT / "benchmarks" / "download_storm.py"


@pytest.mark.slow
def test_storm() -> None:
    done = subprocess.run([sys.executable, STORM, "--seed", "11", "--faults", "1000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[0].strip() for row in rows] == ["faults only", "with SIGKILL"]
    assert all(int(row[3]) >= 1000 and int(row[-1]) == 0 for row in rows)
