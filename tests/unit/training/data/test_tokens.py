"""Tokens as megatron-core reads them, and its silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from neoxrun.config.training import DataConfig
from neoxrun.errors import DataError
from neoxrun.training.data.indexed import with_ending
from neoxrun.training.data.tokens import CorpusTokens
from support.training_data import INT32, UINT16, VOCABULARY, prepare, write_packed, write_rows

DOCUMENTS = [[5, 6, 7], [], [8], [9, 4095]]


def tokens_of(tmp_path: Path, *files: Path, vocab_size: int = VOCABULARY) -> CorpusTokens:
    return CorpusTokens(prepare(DataConfig(files), tmp_path / "cache").train[0], vocab_size)


@pytest.mark.parametrize("dtype", [UINT16, INT32])
def test_any_part_of_a_document(tmp_path: Path, dtype: np.dtype[np.uint16] | np.dtype[np.int32]) -> None:
    tokens = tokens_of(tmp_path, write_packed(tmp_path / "a", DOCUMENTS, dtype))
    for number, document in enumerate(DOCUMENTS):
        for begin in range(len(document) + 1):
            for end in range(begin, len(document) + 2):
                found = tokens.read(number, begin, end)
                assert found.dtype == np.int64
                assert found.tolist() == document[begin:end]
                assert tokens.learned(number, begin, end).tolist() == [True] * len(document[begin:end])


def test_documents_of_several_files_are_numbered_one_after_the_other(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "b.jsonl", [{"prompt": "import", "completion": " os"}])
    tokens = tokens_of(
        tmp_path, write_packed(tmp_path / "a", DOCUMENTS), rows, write_packed(tmp_path / "c", [[1, 2]], INT32)
    )
    assert [tokens.read(number, 0, 9).tolist() for number in (3, 5)] == [[9, 4095], [1, 2]]
    assert [tokens.learned(number, 0, 9).tolist() for number in (3, 4, 5)] == [
        [True, True],
        [False, True, True],
        [True, True],
    ]
    assert tokens.learned(4, 1, 2).tolist() == [True]


def test_what_merge_datasets_writes_is_read(tmp_path: Path) -> None:
    """Its documents are [0], which megatron-core asserts not to be: GPT-NeoX does not look at them."""
    prefix = write_packed(tmp_path / "a", DOCUMENTS)
    path = with_ending(prefix, ".idx")
    data = path.read_bytes()
    path.write_bytes(data[:26] + (1).to_bytes(8, "little") + data[34 : 34 + 12 * len(DOCUMENTS)] + bytes(8))
    with pytest.raises(AssertionError):
        IndexedDataset(str(prefix))
    tokens = tokens_of(tmp_path, prefix)
    assert [tokens.read(number, 0, 9).tolist() for number in range(4)] == DOCUMENTS


def test_ids_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    prefix = write_packed(tmp_path / "a", [[1, 2], [3, 9, -1]], INT32)
    for vocab_size, wrong in ((9, 9), (10, -1)):
        tokens = tokens_of(tmp_path, prefix, vocab_size=vocab_size)
        assert tokens.read(1, 0, 1).tolist() == [3]
        with pytest.raises(
            DataError, match=f"document 1 of .* has the token id {wrong}, .* 0 to {vocab_size - 1}"
        ) as caught:
            tokens.read(1, 0, 3)
        assert (caught.value.code, caught.value.where) == ("foreign_tokens", str(prefix))


def test_megatron_core_says_nothing_and_compiles_nothing(tmp_path: Path) -> None:
    program = "import neoxrun.training.data.tokens"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".so", ".o", ".cu", ".cpp")]
