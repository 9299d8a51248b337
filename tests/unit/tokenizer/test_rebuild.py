"""What is rebuilt of a tokenizer's files. (How it encodes is compared in tests/parity.)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neoxrun.config.settings import TokenizerConfig
from neoxrun.errors import DataError
from neoxrun.tokenizer import load_tokenizer
from neoxrun.tokenizer.rebuild import build_gpt2
from neoxrun.tokenizer.siblings import read_siblings

VOCABULARY = {"a": 0, "b": 1, "ab": 2, "<e>": 3}


@pytest.mark.parametrize("name", ["bos_token", "eos_token"])
def test_a_token_that_every_text_is_to_have_and_is_not_there(name: str, tmp_path: Path) -> None:
    vocabulary, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocabulary.write_text(json.dumps(VOCABULARY))
    merges.write_text("a b\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({name: None, f"add_{name}": True}))
    with pytest.raises(DataError, match=f"says add_{name}, but no {name}") as caught:
        load_tokenizer(TokenizerConfig("GPT2BPETokenizer", vocabulary, merges))
    assert (caught.value.code, caught.value.where) == ("bad_tokenizer", str(tmp_path / "tokenizer_config.json"))


def test_building_changes_nothing_that_the_files_say(tmp_path: Path) -> None:
    decoder = {"3": {"content": "<e>", "special": False}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<e>", "added_tokens_decoder": decoder}))
    siblings = read_siblings(tmp_path)
    assert siblings is not None
    library = build_gpt2(VOCABULARY, [("a", "b")], siblings)
    assert library.get_added_tokens_decoder()[3].special
    assert not siblings.added[3].special
