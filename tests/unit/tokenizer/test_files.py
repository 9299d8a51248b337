"""Tokenizer files: those that are not tokenizers, or do not fit the configuration, are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.config.settings import TokenizerConfig
from neoxrun.errors import ConfigError, DataError, NeoxrunError
from neoxrun.tokenizer import load_tokenizer, vocabulary_size
from support import paths
from support.tokenizer_files import write_gpt2_files

DEMO = paths.DEMO / "tokenizer.json"


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


def test_a_tokenizer_that_the_configuration_does_not_fit(tmp_path: Path) -> None:
    gpt2 = write_gpt2_files(tmp_path)
    vocab, merges, missing = gpt2 / "vocab.json", gpt2 / "merges.txt", tmp_path / "none"
    table: list[tuple[TokenizerConfig, type[NeoxrunError], str]] = [
        (TokenizerConfig("CharLevelTokenizer", DEMO, None), ConfigError, "CharLevelTokenizer is not supported"),
        (TokenizerConfig("SPMTokenizer", DEMO, None), DataError, "is not a SentencePiece model"),
        (TokenizerConfig("SPMTokenizer", missing, None), DataError, "there is no tokenizer file"),
        (TokenizerConfig("SPMTokenizer", None, None), ConfigError, "names no tokenizer"),
        (TokenizerConfig("HFTokenizer", None, None), ConfigError, "names no tokenizer"),
        (TokenizerConfig("HFTokenizer", None, None, (), tmp_path), DataError, f"no tokenizer in {tmp_path}: neither"),
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


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.json"])
def test_a_git_lfs_pointer_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    kind = "GPT2BPETokenizer" if name == "vocab.json" else "HFTokenizer"
    with pytest.raises(DataError, match=f"{name} is a Git LFS pointer") as caught:
        load_tokenizer(TokenizerConfig(kind, path, path))
    assert caught.value.code == "bad_tokenizer"
    assert "git lfs pull" in caught.value.render()


def test_files_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(DEMO.read_bytes())
    plain = load_tokenizer(TokenizerConfig("HFTokenizer", path, None))
    for name, content in {"config.json": '{"model_type": "gpt_neox"}', "tokenizer_config.json": "{}"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
    marked = load_tokenizer(TokenizerConfig("HFTokenizer", path, None))
    assert marked.encode("Hello") == plain.encode("Hello")
