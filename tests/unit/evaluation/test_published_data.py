"""Which files are the published ones: their names, and SHA-256 from the list of downloads."""

from __future__ import annotations

import pytest

from neoxrun.evaluation.published_data import DatasetName, find_published
from support.task_data import LAMBADA, PIQA, PLAIN


@pytest.mark.parametrize(
    ("dataset", "split", "files"),
    [
        (LAMBADA, "test", {"lambada_test.jsonl": "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226"}),
        (
            PIQA,
            "validation",
            {
                "valid.jsonl": "93503cc97c679e459b065c3d13e848282e44b2a25213985bed3e5d458abef72d",
                "valid-labels.lst": "b4192dc3a2a0363d9d60ccf79800cbbe2f32ebb17726efdde6970e0b8131bceb",
            },
        ),
        (PIQA, "train", {"train.jsonl": None, "train-labels.lst": None}),
        (PLAIN, "test", {"lambada_test_plain_text.txt": None}),
        (PLAIN, "validation", {"lambada_development_plain_text.txt": None}),
    ],
)
def test_published_files_and_their_checksums(dataset: DatasetName, split: str, files: dict[str, str | None]) -> None:
    known = find_published(dataset, split)
    assert known is not None
    assert dict(zip(known.files, known.checksums, strict=True)) == files


@pytest.mark.parametrize(
    ("dataset", "split"),
    [(PIQA, "test"), (DatasetName("baber/piqa", "other"), "train"), (DatasetName("baber/piqa", None, "x"), "train")],
)
def test_other_splits_are_not_published_ones(dataset: DatasetName, split: str) -> None:
    assert find_published(dataset, split) is None
