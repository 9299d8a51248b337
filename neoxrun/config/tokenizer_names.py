"""The names of a tokenizer's files in a model's folder, and which of them a folder has. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

TOKENIZER_JSON: Final = "tokenizer.json"
"""The file of the library tokenizers."""

SPIECE_MODELS: Final = ("tokenizer.model", "spiece.model")
"""SentencePiece models, the usual name first."""

SPIECE_TYPE: Final = "SPMTokenizer"
"""GPT-NeoX's ``tokenizer_type`` of a SentencePiece model."""

VOCABULARY: Final = "vocab.json"
"""The entries of a GPT-2 tokenizer."""

MERGES: Final = "merges.txt"
"""The pairs of a GPT-2 tokenizer."""

TOKENIZER_CONFIG: Final = "tokenizer_config.json"
"""What transformers is to do with the tokenizer."""

SIBLINGS: Final = (TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
"""What is next to the vocabulary and adds tokens to it."""

CHAT_TEMPLATE: Final = "chat_template.jinja"
"""The chat template, where it is not in TOKENIZER_CONFIG."""

# The files that hold a whole vocabulary, the best first, with GPT-NeoX's type for each.
_VOCABULARIES: Final = (
    (TOKENIZER_JSON, "HFTokenizer"),
    ("20B_tokenizer.json", "HFTokenizer"),
    *((name, SPIECE_TYPE) for name in SPIECE_MODELS),
)

ALL: Final = (*(name for name, _ in _VOCABULARIES), VOCABULARY, MERGES, *SIBLINGS, CHAT_TEMPLATE)
"""Every name."""


def is_spiece(vocab_file: Path | str | None, tokenizer_type: str = "") -> bool:
    """Whether a tokenizer is a SentencePiece model: by its type, or by its file's name whatever the type.

    Args:
        vocab_file: the file, or its name; None where it has none.
        tokenizer_type: as a configuration has it; case does not count.
    """
    if vocab_file is not None and Path(vocab_file).suffix == ".model":
        return True
    return tokenizer_type.lower() == SPIECE_TYPE.lower()


def find_tokenizer(folder: Path) -> dict[str, str]:
    """GPT-NeoX's options for the tokenizer in ``folder``, by the best of its files; empty if it has none."""
    for name, kind in _VOCABULARIES:
        if (folder / name).is_file():
            return {"tokenizer_type": kind, "vocab_file": str(folder / name)}
    vocabulary, merges = folder / VOCABULARY, folder / MERGES
    if vocabulary.is_file() and merges.is_file():
        return {"tokenizer_type": "GPT2BPETokenizer", "vocab_file": str(vocabulary), "merge_file": str(merges)}
    return {}
