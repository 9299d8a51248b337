"""Where a downloaded checkpoint came from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.config.reader import load_settings
from neoxrun.config.shipped import shipped_dir
from neoxrun.download.manifest import Manifest, ManifestEntry, write_manifest
from neoxrun.download.origin import origin_of


@pytest.mark.parametrize("changed", [False, True])
def test_the_commit_of_downloaded_weights_is_named(changed: bool, tmp_path: Path) -> None:
    """Only while the files are those that were downloaded."""
    shutil.copytree(shipped_dir() / "demo", tmp_path / "demo")
    checkpoint = find_configured_checkpoint(load_settings(["demo"], checkpoint=str(tmp_path / "demo")))
    assert origin_of(checkpoint) == {}
    files = {path.name: ManifestEntry(path.stat().st_size + changed, "0" * 64) for path in checkpoint.folder.iterdir()}
    write_manifest(Manifest(files, hub="lab/demo", revision="abc"), checkpoint.folder)
    assert origin_of(checkpoint) == ({} if changed else {"repository": "lab/demo", "commit": "abc"})
