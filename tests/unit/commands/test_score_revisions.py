"""Where `neoxrun score --revisions` writes the records of each revision."""

from __future__ import annotations

from pathlib import Path

from neoxrun.commands import score_revisions


def test_every_revision_has_a_file_of_its_own(tmp_path: Path) -> None:
    branches = ["step0", "a/b", "a-b", "a%2Fb"]
    files = [score_revisions._file_of(tmp_path / "texts.jsonl", name) for name in branches]
    assert files[0] == tmp_path / "texts.step0.jsonl"
    assert len(set(files)) == len(branches)
    assert {file.parent for file in files} == {tmp_path}
