"""A tokenizer of any kind works in its new folder as it did in the old one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Settings, TokenizerConfig
from neoxrun.conversion import companions as module
from neoxrun.conversion.convert import convert
from neoxrun.conversion.options import ConvertOptions
from neoxrun.conversion.tokenizer_files import check_tokenizer
from neoxrun.errors import CheckpointError
from neoxrun.tokenizer import load_tokenizer
from support.checkpoints import tiny
from support.conversions import TOKENIZER, make_folder, order
from support.tokenizer_kinds import KINDS, ODD_TEXTS, spiece, write_kind

To = Literal["huggingface", "neox"]


def converted(settings: Settings, target: Path, to: To) -> Settings:
    convert(ConvertOptions(settings, target, to, 1, None, 10**9, show_progress=False))
    return load_settings([str(target if to == "huggingface" else target / "config.yml")])


def check_same(before: TokenizerConfig, after: TokenizerConfig) -> None:
    one, other = load_tokenizer(before), load_tokenizer(after)
    assert other.encode_all(list(ODD_TEXTS)) == one.encode_all(list(ODD_TEXTS))
    assert (other.eod, other.bos, other.eos, other.vocab_size) == (one.eod, one.bos, one.eos, one.vocab_size)


@pytest.mark.parametrize("to", ["huggingface", "neox"])
@pytest.mark.parametrize("kind", ["SPMTokenizer", "HFTokenizer"])
def test_a_sentencepiece_model_of_any_name(tmp_path: Path, kind: str, to: To) -> None:
    (tmp_path / "tok.model").write_bytes(spiece())
    options = {"tokenizer_type": kind, "vocab_file": str(tmp_path / "tok.model")}
    source = make_folder(tmp_path / "source", tiny(), rows=1000, options=options)
    before = load_settings([str(source / "model.yml")], checkpoint=str(source))
    after = converted(before, tmp_path / "out", to)
    assert after.tokenizer.vocab_file is not None
    assert after.tokenizer.vocab_file.name == "tokenizer.model"
    assert after.tokenizer.tokenizer_type == "SPMTokenizer"
    check_same(before.tokenizer, after.tokenizer)
    if to == "huggingface":
        assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 2
        content = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
        assert (content["bos_token"], content["eos_token"], content["unk_token"]) == ("<s>", "</s>", "<unk>")


@pytest.mark.parametrize("to", ["huggingface", "neox"])
@pytest.mark.parametrize("kind", ["spiece.model", "config.json alone", "h2ogpt"])
def test_the_tokenizer_of_a_hugging_face_folder(tmp_path: Path, kind: str, to: To) -> None:
    files = {"spiece.model": spiece()} if kind == "spiece.model" else KINDS[kind]
    folder = tmp_path / "hf"
    convert(order(make_folder(tmp_path / "source", tiny(), rows=1000), folder, "huggingface"))
    own = json.loads((folder / "config.json").read_text())
    (folder / "generation_config.json").unlink()
    vocabulary = write_kind(folder, {**files, "config.json": own})
    before = load_settings([str(folder)])
    after = converted(before, tmp_path / "out", to)
    assert after.tokenizer.vocab_file is not None
    assert after.tokenizer.vocab_file.name == vocabulary.name
    if (kind, to) != ("config.json alone", "neox"):  # GPT-NeoX's files do not name the tokens that begin and end texts
        check_same(before.tokenizer, after.tokenizer)


def test_the_proof_looks_at_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_folder(tmp_path / "source", tiny(), rows=2048, options=TOKENIZER)
    monkeypatch.setattr(
        module, "copy_tokenizer", lambda work, config: TokenizerConfig(config.tokenizer_type, None, None)
    )
    with pytest.raises(CheckpointError, match="no tokenizer") as caught:
        convert(order(source, tmp_path / "out", "huggingface"))
    assert caught.value.code == "failed_proof"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["tokens", "end"])
def test_another_tokenizer_is_refused(tmp_path: Path, change: str) -> None:
    kind = KINDS["pythia"]
    first, second = write_kind(tmp_path / "one", kind), write_kind(tmp_path / "two", kind)
    content = json.loads(second.read_text())
    if change == "tokens":
        content["model"]["merges"] = content["model"]["merges"][:5]
    else:
        content["added_tokens"] = content["added_tokens"][1:]
        content["model"]["vocab"]["<|other|>"] = content["model"]["vocab"].pop("<|endoftext|>")
        (second.parent / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    second.write_text(json.dumps(content))
    mine = load_tokenizer(TokenizerConfig("HFTokenizer", first, None))
    texts = ["Hello, world!"]
    assert check_tokenizer(mine, TokenizerConfig("HFTokenizer", first, None), tmp_path, texts) == mine.encode_all(texts)
    with pytest.raises(CheckpointError, match="other tokens") as caught:
        check_tokenizer(mine, TokenizerConfig("HFTokenizer", second, None), tmp_path, texts)
    assert caught.value.code == "failed_proof"
