"""Tokenizers: GPT-NeoX's ids and text, streaming that equals decoding, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, processors

from neoxrun import tokenizer
from neoxrun.config import reader as config
from neoxrun.config.settings import TokenizerConfig
from neoxrun.errors import ConfigError, DataError, NeoxrunError
from support.tiny_models import demo_tokenizer, write_20b_tokenizer

DEMO = config.shipped_dir() / "demo" / "tokenizer.json"
TOKENIZER = demo_tokenizer()


def hugging_face(path: Path) -> TokenizerConfig:
    return TokenizerConfig("HFTokenizer", path, None, (path,))


def streamed(coder: tokenizer.Tokenizer, ids: list[int]) -> list[str]:
    stream = coder.stream()
    return [*(stream.push(token) for token in ids), stream.flush()]


@pytest.fixture(scope="module")
def neox_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of GPT-NeoX-20B and Pythia."""
    return write_20b_tokenizer(tmp_path_factory.mktemp("20B") / "20B_tokenizer.json")


@pytest.fixture(scope="module")
def neox(neox_file: Path) -> tokenizer.Tokenizer:
    return tokenizer.load(hugging_face(neox_file))


def test_the_20b_tokenizer(neox: tokenizer.Tokenizer, neox_file: Path) -> None:
    path = neox_file
    assert (neox.vocab_size, neox.eod) == (50277, 0)
    assert tokenizer.vocabulary_size(hugging_face(path)) == 50277
    library = Library.from_file(str(path))
    for text in ("Hello, world", "", "  def f():\n\t\treturn 'é😀'", "a<|endoftext|>b", "ﬁ" * 3):
        assert neox.encode(text) == library.encode(text, add_special_tokens=False).ids
    text = "  def f():\n\t\treturn 'é😀中'"
    assert neox.decode(neox.encode(text)) == text
    assert neox.decode([0, 1, *neox.encode("a")]) == "a", "as GPT-NeoX: special tokens are left out"
    assert neox.decode([50431]) == "", "a row of the padded vocabulary stands for nothing"


# Ids of the padded vocabulary, and often those of single bytes, whose sequences are mostly not UTF-8.
IDS = st.lists(st.integers(0, 50431) | st.integers(2, 260), max_size=40)


@settings(max_examples=300, deadline=None)
@given(IDS)
@example([50254, 0, 50276, 1, 187])
def test_streaming_random_ids_gives_what_decoding_gives(neox: tokenizer.Tokenizer, ids: list[int]) -> None:
    assert "".join(streamed(neox, ids)) == neox.decode(ids)


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1))
def test_streaming_text_never_shows_half_a_character(neox: tokenizer.Tokenizer, text: str) -> None:
    ids = neox.encode(text)
    whole = neox.decode(ids)
    shown = ""
    for piece in streamed(neox, ids):
        shown += piece
        assert whole.startswith(shown)
    assert shown == whole


def test_half_a_character_is_shown_only_when_it_stays_half(neox: tokenizer.Tokenizer) -> None:
    ids = neox.encode("😀")
    assert len(ids) > 1
    assert streamed(neox, ids) == [*[""] * (len(ids) - 1), "😀", ""]
    assert streamed(neox, ids[:-1])[-1] == "\ufffd"
    assert streamed(neox, [*ids[:-1], neox.encode("a")[0]])[-2:] == ["\ufffda", ""]


def test_a_tokenizer_that_is_not_byte_level_streams_too(tmp_path: Path) -> None:
    """Llama's kind: words begin with U+2581, unknown characters are spelled in bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁b"]
    merges = [("▁", "a"), ("▁", "b")]
    library = Library(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.save(str(tmp_path / "t.json"))
    coder = tokenizer.load(hugging_face(tmp_path / "t.json"))
    ids = coder.encode("a b😀 ab")
    pieces_shown = streamed(coder, ids)
    assert "".join(pieces_shown) == coder.decode(ids) == "a b😀 ab"
    assert not any("\ufffd" in piece for piece in pieces_shown)
    assert "".join(streamed(coder, ids[:4])) == coder.decode(ids[:4])


def test_padding_and_truncation_of_the_file_do_not_touch_prompts(tmp_path: Path) -> None:
    library = Library.from_file(str(DEMO))
    library.enable_truncation(2)
    library.enable_padding(length=9)
    library.save(str(tmp_path / "t.json"))
    text = "def main(argument):"
    assert (
        tokenizer.load(hugging_face(tmp_path / "t.json")).encode(text) == Library.from_file(str(DEMO)).encode(text).ids
    )


def test_a_file_that_begins_every_text_is_obeyed(tmp_path: Path) -> None:
    library = Library.from_file(str(DEMO))
    library.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", library.token_to_id("<|endoftext|>"))]
    )
    library.save(str(tmp_path / "t.json"))
    coder = tokenizer.load(hugging_face(tmp_path / "t.json"))
    assert coder.encode("def")[0] == coder.eod


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


def test_gpt2_files_give_what_transformers_gives(gpt2: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2TokenizerFast.from_pretrained(gpt2)
    files = (gpt2 / "vocab.json", gpt2 / "merges.txt")
    ours = tokenizer.load(TokenizerConfig("GPT2BPETokenizer", *files))
    for text in ("def f(x):\n    return 'é😀'", " a  b ", "x<|endoftext|>y", "#version of #this"):
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == text == "".join(streamed(ours, ids))
    size = len(json.loads(files[0].read_text(encoding="utf-8")))
    assert (ours.vocab_size, ours.eod) == (size, size - 1)
    folder = TokenizerConfig("HFGPT2Tokenizer", gpt2, None)
    for other in (TokenizerConfig("gpt2bpetokenizer", *files), folder):
        assert tokenizer.vocabulary_size(other) == tokenizer.load(other).vocab_size
    assert tokenizer.load(folder).vocab_size == size + 1, "GPT-NeoX adds <|padding|> to this type"


def test_no_end_of_document(tmp_path: Path) -> None:
    Library(models.BPE({"a": 0}, [])).save(str(tmp_path / "t.json"))
    assert tokenizer.load(hugging_face(tmp_path / "t.json")).eod is None


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
def test_a_vocabulary_file_that_is_none(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "20B_checkpoints" / "20B_tokenizer.json"
    path.parent.mkdir()
    elsewhere = tmp_path / "configs" / path.name
    found = TokenizerConfig("HFTokenizer", path, None, (elsewhere, path))
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        tokenizer.load(found)
    error = caught.value
    assert str(error.where).startswith(str(path))
    assert "--tokenizer FILE" in str(error.hint)
    assert f"`neoxrun download --to {path.parent}`" in str(error.hint)
    if content is None:
        assert str(elsewhere) in error.message
        assert tokenizer.vocabulary_size(found) is None
    else:
        with pytest.raises(DataError, match=message):
            tokenizer.vocabulary_size(found)


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
            tokenizer.load(found)


def test_half_a_utf16_pair_is_refused() -> None:
    with pytest.raises(DataError, match="not valid Unicode"):
        tokenizer.load(hugging_face(DEMO)).encode("a\ud800")


def test_all_texts_at_once_are_encoded_as_one_by_one() -> None:
    texts = ["import os", "", "é ", "<|endoftext|>"]
    assert TOKENIZER.encode_all(texts) == [TOKENIZER.encode(text) for text in texts]
    with pytest.raises(DataError, match=r"'\\ud800' is not valid Unicode"):
        TOKENIZER.encode_all(["a", "\ud800"])
