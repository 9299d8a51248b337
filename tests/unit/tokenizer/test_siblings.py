"""What the files next to a tokenizer say, and which of them are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neoxrun.errors import DataError
from neoxrun.tokenizer.siblings import read_siblings


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def test_a_folder_of_gpt_neox_says_nothing(tmp_path: Path) -> None:
    assert read_siblings(tmp_path) is None
    assert read_siblings(tmp_path / "none") is None
    assert read_siblings(write(tmp_path, config__json={})) is None


def test_a_gpt_neox_model_without_more_has_transformers_class(tmp_path: Path) -> None:
    found = read_siblings(write(tmp_path, config__json={"model_type": "gpt_neox"}))
    assert found is not None
    assert (found.class_name, found.names["bos_token"]) == ("GPTNeoXTokenizer", "<|endoftext|>")


def test_special_tokens_map_counts_unless_the_decoder_names_the_tokens(tmp_path: Path) -> None:
    special = {"eos_token": {"content": "<e>", "lstrip": False}, "additional_special_tokens": ["<x>"]}
    found = read_siblings(write(tmp_path, special_tokens_map__json=special, added_tokens__json={"<e>": 9, "<y>": 8}))
    assert found is not None
    assert found.names["eos_token"] == "<e>"
    assert found.extra == ("<x>",)
    assert {number: (token.content, token.special) for number, token in found.added.items()} == {
        9: ("<e>", True),
        8: ("<y>", False),
    }
    decoder = {"5": {"content": "<z>", "special": True}}
    write(tmp_path, tokenizer_config__json={"eos_token": "<f>", "added_tokens_decoder": decoder})
    found = read_siblings(tmp_path)
    assert found is not None
    assert (found.names["eos_token"], found.replaces, list(found.added)) == ("<f>", True, [5])


@pytest.mark.parametrize(
    "content",
    ["{", "[]", b"\xff".decode("latin1") + "{", {"added_tokens_decoder": {"5": "<z>"}}, {"added_tokens_decoder": [1]}],
)
def test_a_damaged_file_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_siblings(write(tmp_path, tokenizer_config__json=content))
    assert caught.value.code == "bad_tokenizer"
    assert caught.value.where == str(tmp_path / "tokenizer_config.json")
