"""One table of a tokenizer's files: what is found in a folder is what a download and a conversion take."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.config import tokenizer_names
from neoxrun.config.tokenizer_names import find_tokenizer, is_spiece
from neoxrun.download.hub_files import choose_files


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ([], {}),
        (["vocab.json"], {}),
        (["merges.txt"], {}),
        (["20B_tokenizer.json", "spiece.model"], {"tokenizer_type": "HFTokenizer", "vocab_file": "20B_tokenizer.json"}),
        (["spiece.model", "vocab.json"], {"tokenizer_type": "SPMTokenizer", "vocab_file": "spiece.model"}),
        (
            ["merges.txt", "vocab.json", "tokenizer_config.json"],
            {"tokenizer_type": "GPT2BPETokenizer", "vocab_file": "vocab.json", "merge_file": "merges.txt"},
        ),
    ],
)
def test_the_best_of_the_files_in_a_folder(names: list[str], options: dict[str, str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    paths = {key: value if key == "tokenizer_type" else str(tmp_path / value) for key, value in options.items()}
    assert find_tokenizer(tmp_path) == paths


def test_a_download_takes_every_file_of_the_table() -> None:
    others = ["README.md", "optimizer.bin"]
    assert set(choose_files(["model.safetensors", *tokenizer_names.ALL, *others])) == {
        "model.safetensors",
        *tokenizer_names.ALL,
    }


def test_a_sentencepiece_model_is_known_by_its_ending() -> None:
    assert is_spiece("a/tok.model")
    assert is_spiece(Path("spiece.model"))
    assert not is_spiece("tokenizer.json")
    assert not is_spiece(None)
    assert is_spiece("a/tok.model", "HFTokenizer")
    assert is_spiece("vocabulary", "spmtokenizer")
    assert is_spiece(None, "SPMTokenizer")
    assert not is_spiece("tokenizer.json", "HFTokenizer")
