"""SentencePiece models: as the library that trained them encodes and decodes, with the tokens of other files."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from neoxrun.config.settings import TokenizerConfig
from neoxrun.errors import DataError
from neoxrun.tokenizer import Tokenizer, load_tokenizer, vocabulary_size
from support.tokenizer_files import streamed
from support.tokenizer_kinds import ODD_TEXTS, added, spiece, write_kind

MODEL = spiece()
T5: dict[str, Any] = {"tokenizer_class": "T5Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "extra_ids": 0}


def load(folder: Path, **files: Any) -> Tokenizer:
    path = write_kind(folder, {"spiece.model": MODEL, **{name.replace("__", "."): it for name, it in files.items()}})
    for name in ("SPMTokenizer", "HFTokenizer"):  # the file's name tells, too
        assert (
            vocabulary_size(TokenizerConfig(name, path, None))
            == load_tokenizer(TokenizerConfig(name, path, None)).vocab_size
        )
    return load_tokenizer(TokenizerConfig("SPMTokenizer", path, None))


@pytest.mark.parametrize("files", [{}, {"tokenizer_config__json": T5}])
def test_text_is_encoded_as_in_training(files: dict[str, Any], tmp_path: Path) -> None:
    ours, trained = load(tmp_path, **files), SentencePieceProcessor(model_proto=MODEL)
    for text in (text for text in ODD_TEXTS if "<" not in text):
        assert ours.encode(text) == trained.encode(text), text
        assert ours.decode(trained.encode(text)) == trained.decode(trained.encode(text)), text
    draw = random.Random(1)
    for _ in range(200):
        ids = [draw.randrange(3, trained.get_piece_size()) for _ in range(12)]
        assert "".join(streamed(ours, ids)) == ours.decode(ids) == trained.decode(ids)
    assert (ours.bos, ours.eos, ours.eod) == (1, 2, 2)


def test_characters_that_are_no_piece_are_bytes(tmp_path: Path) -> None:
    ours = load(tmp_path)
    ids = ours.encode("🎉x")
    assert len(ids) > 4
    assert ours.decode(ids) == "🎉x"
    assert streamed(ours, ids)[-2:] == ["🎉x", ""], "bytes are shown when no other can follow"


def test_special_and_added_tokens_that_are_written_out(tmp_path: Path) -> None:
    chat = {**added(600, "<|user|>"), **added(601, "<|end|>", rstrip=True, special=False)}
    ours = load(tmp_path, tokenizer_config__json={**T5, "added_tokens_decoder": chat, "pad_token": "[PAD]"})
    size = SentencePieceProcessor(model_proto=MODEL).get_piece_size()
    ids = ours.encode("<|user|>a</s><|end|>  b")
    assert ids == [size, *ours.encode("a"), 2, size + 1, *ours.encode("b")]
    assert ours.decode(ids) == "a<|end|>b"
    assert (ours.vocab_size, ours.trained_size) == (size + 3, size), "[PAD] was added, too"
    assert ours.decode([size + 99]) == ""
    assert ours.special_ids(["<|user|>", "<|end|>", "</s>"]).keys() == {2, size}


def test_tokens_that_begin_and_end_every_text(tmp_path: Path) -> None:
    ours = load(tmp_path, tokenizer_config__json={**T5, "add_bos_token": True, "add_eos_token": True})
    assert ours.encode("a") == [1, *ours.encode("a", complete=True), 2]
    assert load(tmp_path / "2", tokenizer_config__json=T5).encode("a") == ours.encode("a", complete=True)


def test_a_token_that_is_to_begin_every_text_and_is_not_there(tmp_path: Path) -> None:
    path = write_kind(tmp_path, {"tokenizer.model": spiece(model_type="bpe")})
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": None, "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="says add_bos_token, but no bos_token") as caught:
        load_tokenizer(TokenizerConfig("SPMTokenizer", path, None))
    assert (caught.value.code, caught.value.where) == ("bad_tokenizer", str(tmp_path / "tokenizer_config.json"))


def test_spaces_before_a_token_that_takes_them(tmp_path: Path) -> None:
    left = {**added(600, "<|user|>", lstrip=True), **added(601, "<|end|>", lstrip=True, rstrip=True)}
    ours = load(tmp_path, tokenizer_config__json={**T5, "added_tokens_decoder": left})
    user, end = ours.encode("<|user|><|end|>")
    assert ours.encode("a \t\n<|user|>") == [*ours.encode("a"), user]
    assert ours.encode("<|user|>  <|end|>  <|user|> a") == [user, end, user, *ours.encode(" a")]
    start = time.monotonic()
    assert ours.encode("a" + " " * 60_000 + "b<|user|>")[-1] == user
    assert time.monotonic() - start < 10, "seconds; looking for the end of the spaces from each takes twice that"


def test_where_tokens_begin(tmp_path: Path) -> None:
    config = {**T5, "add_bos_token": True, "add_eos_token": True}
    ours = load(tmp_path, tokenizer_config__json=config)
    text = "日本語 🎉 the</s> model  x"
    ((ids, starts),) = ours.encode_with_starts([text])
    assert ids == ours.encode(text)
    assert len(starts) == len(ids)
    assert (starts[0], starts[-1]) == (0, 0), "tokens that are not in the text"
    assert starts[1:-1] == sorted(starts[1:-1])
    assert starts[ids.index(2)] == text.index("</s>")
    spelled = {start: ours.spell(token).strip() for token, start in zip(ids[1:-1], starts[1:-1], strict=True)}
    assert all(text[start:].strip().startswith(piece) for start, piece in spelled.items() if "\ufffd" not in piece)


def test_half_a_utf16_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path).encode("a\ud800")
    assert caught.value.code == "not_text"


@pytest.mark.parametrize("content", [b"", MODEL[: len(MODEL) // 2], b"\x00" * 9, b"<html>"])
def test_a_file_that_is_not_a_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "spiece.model"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a SentencePiece model") as caught:
        load_tokenizer(TokenizerConfig("SPMTokenizer", path, None))
    assert caught.value.code == "bad_tokenizer"
