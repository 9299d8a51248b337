"""Token ids and text as GPT-NeoX has them, and streaming that equals decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, processors

from neoxrun.config.settings import TokenizerConfig
from neoxrun.errors import DataError, UsageError
from neoxrun.tokenizer import Tokenizer, load_tokenizer, vocabulary_size
from support import paths
from support.tiny_models import demo_tokenizer
from support.tokenizer_files import hugging_face, load_hugging_face, streamed, write_20b_tokenizer
from support.tokenizer_kinds import KINDS, ODD_TEXTS, unigram, write_kind

DEMO = paths.DEMO / "tokenizer.json"
TOKENIZER = demo_tokenizer()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer file of GPT-NeoX-20B and Pythia."""
    return write_20b_tokenizer(tmp_path_factory.mktemp("20B") / "20B_tokenizer.json")


@pytest.fixture(scope="module")
def neox(path: Path) -> Tokenizer:
    return load_hugging_face(path)


def test_the_20b_tokenizer(neox: Tokenizer, path: Path) -> None:
    assert (neox.vocab_size, neox.eod) == (50277, 0)
    assert vocabulary_size(hugging_face(path)) == 50277
    library = Library.from_file(str(path))
    for text in ("Hello, world", "", "  def f():\n\t\treturn 'é😀'", "a<|endoftext|>b", "ﬁ" * 3):
        assert neox.encode(text) == library.encode(text, add_special_tokens=False).ids
    text = "  def f():\n\t\treturn 'é😀中'"
    assert neox.decode(neox.encode(text)) == text
    assert neox.decode([0, 1, *neox.encode("a")]) == "a", "as GPT-NeoX: special tokens are left out"
    assert neox.decode([50431]) == "", "a row of the padded vocabulary stands for nothing"


@pytest.mark.parametrize("ids", [[707], (707,), range(707, 708), torch.tensor([707]), np.array([707]), [np.int64(707)]])
def test_ids_as_programs_hold_them(ids: Any) -> None:
    assert TOKENIZER.decode(ids) == "import"


@pytest.mark.parametrize("wrong", [5, None, "abc", [1.5], [[1]], [True], b"ab"])
def test_what_is_no_list_of_ids(wrong: Any) -> None:
    with pytest.raises(UsageError, match="is not a list of token ids") as caught:
        TOKENIZER.decode(wrong)
    assert caught.value.code == "invalid_value"


def test_ids_that_a_model_does_not_have() -> None:
    limited = TOKENIZER.of_model(2050)
    assert limited.decode([2049]) == "", "a row of the padded vocabulary"
    for tokenizer, wrong in ((limited, 2050), (limited, -1), (TOKENIZER, -1), (TOKENIZER, 2**32)):
        with pytest.raises(UsageError, match=f"^{wrong} is not a token id"):
            tokenizer.decode([wrong])


@pytest.mark.parametrize("wrong", [5, None, ["a"], b"a"])
def test_what_is_no_text(wrong: Any) -> None:
    with pytest.raises(UsageError, match="is not a text") as caught:
        TOKENIZER.encode(wrong)
    assert caught.value.code == "invalid_value"


# Ids of the padded vocabulary, and often those of single bytes, whose sequences are mostly not UTF-8.
IDS = st.lists(st.integers(0, 50431) | st.integers(2, 260), max_size=40)


@settings(max_examples=300, deadline=None)
@given(IDS)
@example([50254, 0, 50276, 1, 187])
def test_streaming_random_ids_gives_what_decoding_gives(neox: Tokenizer, ids: list[int]) -> None:
    assert "".join(streamed(neox, ids)) == neox.decode(ids)


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1))
def test_streaming_text_never_shows_half_a_character(neox: Tokenizer, text: str) -> None:
    ids = neox.encode(text)
    whole = neox.decode(ids)
    shown = ""
    for piece in streamed(neox, ids):
        shown += piece
        assert whole.startswith(shown)
    assert shown == whole


def test_half_a_character_is_shown_only_when_it_stays_half(neox: Tokenizer) -> None:
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
    tokenizer = load_hugging_face(tmp_path / "t.json")
    ids = tokenizer.encode("a b😀 ab")
    pieces_shown = streamed(tokenizer, ids)
    assert "".join(pieces_shown) == tokenizer.decode(ids) == "a b😀 ab"
    assert not any("\ufffd" in piece for piece in pieces_shown)
    assert "".join(streamed(tokenizer, ids[:4])) == tokenizer.decode(ids[:4])


def test_no_text_is_lost_after_bytes_that_are_no_character(tmp_path: Path) -> None:
    """A run of bytes is a text only as a whole: one byte too many makes U+FFFD of each."""
    path = write_kind(tmp_path, {"tokenizer.json": unigram})
    tokenizer = load_hugging_face(path)
    words, party = tokenizer.encode("the model"), [3 + byte for byte in "🎉".encode()]
    assert party == tokenizer.encode("🎉")[-4:]
    ids = [*words, 3 + 0x0A, *party[:3], *words]
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert tokenizer.decode(ids).count("\ufffd") == 4
    assert tokenizer.decode(ids).endswith("the model")
    assert pieces[len(words) : len(words) + 4] == [""] * 4


def test_a_file_that_begins_every_text_is_followed(tmp_path: Path) -> None:
    library = Library.from_file(str(DEMO))
    library.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", library.token_to_id("<|endoftext|>"))]
    )
    library.save(str(tmp_path / "t.json"))
    tokenizer = load_hugging_face(tmp_path / "t.json")
    assert tokenizer.encode("def")[0] == tokenizer.eod


def test_half_a_utf16_pair_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        load_hugging_face(DEMO).encode("a\ud800")
    assert caught.value.code == "not_text"


def test_all_texts_at_once_are_encoded_as_one_by_one() -> None:
    texts = ["import os", "", "é ", "<|endoftext|>"]
    assert TOKENIZER.encode_all(texts) == [TOKENIZER.encode(text) for text in texts]
    with pytest.raises(DataError, match=r"'\\ud800' is not valid Unicode") as caught:
        TOKENIZER.encode_all(["a", "\ud800"])
    assert caught.value.code == "not_text"


def test_padding_and_truncation_of_the_file_do_not_touch_prompts(tmp_path: Path) -> None:
    library = Library.from_file(str(DEMO))
    library.enable_truncation(2)
    library.enable_padding(length=9)
    library.save(str(tmp_path / "t.json"))
    text = "def main(argument):"
    assert load_hugging_face(tmp_path / "t.json").encode(text) == Library.from_file(str(DEMO)).encode(text).ids


def test_no_end_of_document(tmp_path: Path) -> None:
    Library(models.BPE({"a": 0}, [])).save(str(tmp_path / "t.json"))
    assert load_hugging_face(tmp_path / "t.json").eod is None


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_with_their_beginnings_are_those_of_the_text(kind: str, tmp_path: Path) -> None:
    path = write_kind(tmp_path, KINDS[kind])
    name = "HFTokenizer" if path.name == "tokenizer.json" else "SPMTokenizer"
    tokenizer = load_tokenizer(TokenizerConfig(name, path, None))
    for text, (ids, starts) in zip(ODD_TEXTS, tokenizer.encode_with_starts(list(ODD_TEXTS)), strict=True):
        begins = tokenizer.start_text
        assert ids == tokenizer.encode(text, complete=begins != "" and text.startswith(begins)), text
        assert len(starts) == len(ids)
        assert all(0 <= start <= len(text) for start in starts)
