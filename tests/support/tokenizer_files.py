"""Tokenizers from files, and the text that they stream."""

from __future__ import annotations

import lzma
from pathlib import Path

from neoxrun.config.settings import TokenizerConfig
from neoxrun.tokenizer import Tokenizer, load_tokenizer
from support.paths import FIXTURES


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


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The text that each token completes, and the text held back at the end."""
    stream = tokenizer.stream()
    return [*(stream.push(token) for token in ids), stream.flush()]
