"""Tokenizers from files, and the text that they stream."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from neoxrun.config.settings import TokenizerConfig
from neoxrun.tokenizer import Tokenizer, load_tokenizer
from support.paths import DEMO, FIXTURES


def hugging_face(path: Path) -> TokenizerConfig:
    """The configuration of a tokenizer.json."""
    return TokenizerConfig("HFTokenizer", path, None, (path,))


def load_hugging_face(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json."""
    return load_tokenizer(hugging_face(path))


def write_20b_tokenizer(path: Path) -> Path:
    """The tokenizer of GPT-NeoX-20B and Pythia, which the repository holds compressed."""
    path.write_bytes(lzma.decompress((FIXTURES / "20B_tokenizer.json.xz").read_bytes()))
    return path


def write_gpt2_files(folder: Path) -> Path:
    """vocab.json and merges.txt with the demo tokenizer's words, <|endoftext|> last as in GPT-2."""
    model = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    words = [word for word in sorted(model["vocab"], key=model["vocab"].get) if not word.startswith("<|")]
    vocabulary = {word: i for i, word in enumerate([*words, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return folder


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The text that each token completes, and the text held back at the end."""
    stream = tokenizer.stream()
    return [*(stream.push(token) for token in ids), stream.flush()]
