"""What a person who installs neoxrun gets: the wheel, the pinned versions and what the set-up scripts say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip install .` would build and install."""
    pytest.importorskip("hatchling", reason="without the build backend pip would have to download it")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "-qq", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "-w", folder, ROOT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_every_module_and_shipped_file(wheel: Path) -> None:
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "neoxrun").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {
        f"neoxrun/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*") if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = [name for name in archive.namelist() if ".dist-info/" in name]
        (entry_points,) = [name for name in metadata if name.endswith("entry_points.txt")]
        assert "neoxrun = neoxrun.cli:main" in archive.read(entry_points).decode()
        (about,) = [name for name in metadata if name.endswith("/METADATA")]
        assert "Project-URL: " in archive.read(about).decode()
    assert names == package | shipped
    assert "neoxrun/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in metadata)


def test_demo_model_is_complete_and_small() -> None:
    demo = ROOT / "configs" / "demo"
    tag = (demo / "latest").read_text(encoding="utf-8").strip()
    # Six layers at tensor parallel 2: embedding, layers, final norm and head, each in two files.
    assert len(list((demo / tag).glob("layer_*-model_0[01]-model_states.pt"))) == 2 * (1 + 6 + 1 + 1)
    assert (demo / "tokenizer.json").is_file()
    assert "PSF-2.0" in (demo / "README.md").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in demo.rglob("*") if path.is_file()) <= 8_000_000


def test_installed_package_finds_its_configs(wheel: Path, tmp_path: Path) -> None:
    """The unpacked wheel alone, without the checkout: the name `demo` leads to files inside the package."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        "from neoxrun.config.reader import load_settings; s = load_settings(['demo']); "
        "print(s.checkpoint, s.tokenizer.vocab_file)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for path in done.stdout.split():
        assert Path(path).exists()
        assert Path(path).is_relative_to(tmp_path / "neoxrun" / "configs")


def test_the_wheel_runs_outside_the_tree(wheel: Path, tmp_path: Path) -> None:
    """Installed into a folder of its own, from an ordinary one: the command, its ranks and the demo model."""
    command = [sys.executable, "-m", "pip", "-qq", "install", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, tmp_path / "installed", wheel], check=True)
    (tmp_path / "here").mkdir()
    origin = "import sys, neoxrun; print(neoxrun.__file__, flush=True); from neoxrun.cli import main; sys.exit(main())"
    arguments = ["generate", "demo", "--prompt", "import os", "--maximum-tokens", "4", "--tp", "1"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", origin, *arguments],
        cwd=tmp_path / "here",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[0]).is_relative_to(tmp_path / "installed")
    assert "1 answer, 4 tokens" in done.stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_every_dependency_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name == "triton":
            continue  # a build of torch for CUDA names the one it needs
        assert name in pins, f"{name} has no version in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"constraints.txt: {name}=={pins[name]} is not {requirement}"
    assert not [name for name in pins if re.match("nvidia-c|cuda|triton", name)], "CUDA packages depend on the machine"


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        ("echo 3.9", "is Python 3.9", "NEOXRUN_PYTHON"),
        ("exit 127", "was found", "NEOXRUN_PYTHON"),
        (
            'case "$2" in *ensurepip*) exit 1;; *) echo 3.12;; esac',
            "venv module is missing",
            "apt install python3.12-venv",
        ),
    ],
    ids=["too old", "not there", "no venv module"],
)
def test_setup_says_what_is_missing(answer: str, message: str, hint: str, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\n{answer}\n", encoding="utf-8")
    python.chmod(0o755)
    venv = tmp_path / "venv"
    done = subprocess.run(
        [ROOT / "scripts" / "demo"],
        cwd=tmp_path,
        env={**os.environ, "NEOXRUN_PYTHON": str(python), "NEOXRUN_VENV": str(venv)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    error, _, advice = done.stderr.partition("\n\nhint: ")
    assert error.startswith("error: ")
    assert message in error
    assert hint in advice
    assert not venv.exists()
