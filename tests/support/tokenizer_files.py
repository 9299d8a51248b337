"""Tokenizers from files, and the text that they stream."""

from __future__ import annotations

from pathlib import Path

from neoxrun.config.settings import TokenizerConfig
from neoxrun.tokenizer import Tokenizer, load_tokenizer


def hugging_face(path: Path) -> TokenizerConfig:
    """The configuration of a tokenizer.json."""
    return TokenizerConfig("HFTokenizer", path, None, (path,))


def load_hugging_face(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json."""
    return load_tokenizer(hugging_face(path))


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The text that each token completes, and the text held back at the end."""
    stream = tokenizer.stream()
    return [*(stream.push(token) for token in ids), stream.flush()]
