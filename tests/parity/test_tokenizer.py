"""GPT-2's tokenizer files give what transformers gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neoxrun.config.settings import TokenizerConfig
from neoxrun.tokenizer import load_tokenizer, vocabulary_size
from support.tokenizer_files import streamed, write_gpt2_files


@pytest.fixture
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gpt2_files(tmp_path_factory.mktemp("gpt2"))


def test_gpt2_files_encode_as_in_transformers(gpt2: Path) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.GPT2TokenizerFast.from_pretrained(gpt2)
    files = (gpt2 / "vocab.json", gpt2 / "merges.txt")
    loaded = load_tokenizer(TokenizerConfig("GPT2BPETokenizer", *files))
    for text in ("def f(x):\n    return 'é😀'", " a  b ", "x<|endoftext|>y", "#version of #this"):
        ids = loaded.encode(text)
        assert ids == reference.encode(text)
        assert loaded.decode(ids) == text == "".join(streamed(loaded, ids))
    size = len(json.loads(files[0].read_text(encoding="utf-8")))
    assert (loaded.vocab_size, loaded.eod) == (size, size - 1)
    folder = TokenizerConfig("HFGPT2Tokenizer", gpt2, None)
    for other in (TokenizerConfig("gpt2bpetokenizer", *files), folder):
        assert vocabulary_size(other) == load_tokenizer(other).vocab_size
    assert load_tokenizer(folder).vocab_size == size + 1, "GPT-NeoX adds <|padding|> to this type"
