"""Tokenizer files: GPT-2's give what transformers gives, and files that are not tokenizers are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neoxrun.config.settings import TokenizerConfig
from neoxrun.errors import ConfigError, DataError, NeoxrunError
from neoxrun.tokenizer import load_tokenizer, vocabulary_size
from support import paths
from support.tokenizer_files import streamed

DEMO = paths.DEMO / "tokenizer.json"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt with the demo tokenizer's words, <|endoftext|> last as in GPT-2."""
    folder = tmp_path_factory.mktemp("gpt2")
    model = json.loads(DEMO.read_text(encoding="utf-8"))["model"]
    words = [word for word in sorted(model["vocab"], key=model["vocab"].get) if not word.startswith("<|")]
    vocabulary = {word: i for i, word in enumerate([*words, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return folder


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


CONTENT = DEMO.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no tokenizer file"),
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (CONTENT[: len(CONTENT) // 2], "is not JSON: it is cut off or damaged"),
        (b"PK\x03\x04\xff\xfe", "is not a text file"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a tokenizer.json"),
        (b'{"a": 1}', "is not a tokenizer.json: it has no `model`"),
        (b'{"model": {"vocab": 3}, "added_tokens": []}', "is not a tokenizer.json"),
    ],
)
def test_a_tokenizer_file_that_is_something_else(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "20B_checkpoints" / "20B_tokenizer.json"
    path.parent.mkdir()
    elsewhere = tmp_path / "configs" / path.name
    found = TokenizerConfig("HFTokenizer", path, None, (elsewhere, path))
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_tokenizer(found)
    error = caught.value
    assert str(error.where).startswith(str(path))
    assert "--tokenizer FILE" in str(error.hint)
    assert f"`neoxrun download --to {path.parent}`" in str(error.hint)
    if content is None:
        assert str(elsewhere) in error.message
        assert vocabulary_size(found) is None
    else:
        with pytest.raises(DataError, match=message):
            vocabulary_size(found)


def test_a_tokenizer_that_the_configuration_does_not_fit(gpt2: Path, tmp_path: Path) -> None:
    vocab, merges, missing = gpt2 / "vocab.json", gpt2 / "merges.txt", tmp_path / "none"
    table: list[tuple[TokenizerConfig, type[NeoxrunError], str]] = [
        (TokenizerConfig("SPMTokenizer", DEMO, None), ConfigError, "SPMTokenizer is not supported"),
        (TokenizerConfig("HFTokenizer", None, None), ConfigError, "names no tokenizer"),
        (TokenizerConfig("HFTokenizer", tmp_path, None), DataError, "cannot be read: Is a directory"),
        (TokenizerConfig("GPT2BPETokenizer", vocab, None), ConfigError, "needs a merge_file"),
        (TokenizerConfig("GPT2BPETokenizer", vocab, missing), DataError, "there is no merge file"),
        (TokenizerConfig("GPT2BPETokenizer", DEMO, merges), DataError, "is a tokenizer of type HFTokenizer"),
        (TokenizerConfig("GPT2BPETokenizer", merges, merges), DataError, "is not JSON"),
        (TokenizerConfig("GPT2BPETokenizer", vocab, vocab), DataError, "does not belong to"),
        (TokenizerConfig("HFTokenizer", vocab, None), DataError, "it has no `model`"),
    ]
    for found, kind, message in table:
        with pytest.raises(kind, match=message):
            load_tokenizer(found)
