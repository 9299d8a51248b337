"""The image of the Dockerfile, as the README uses it; without Docker, its root file system is put together here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.paths import ROOT


def test_the_image_in_an_ordinary_folder() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "test_image.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nok: ") == 6
