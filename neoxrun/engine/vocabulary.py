"""Whether a tokenizer can be that of a model."""

from __future__ import annotations

from typing import Final

from neoxrun.config.settings import Settings
from neoxrun.errors import CheckpointError
from neoxrun.tokenizer import Tokenizer

# Vocabularies are padded to a multiple of 128 x the tensor-parallel size of the training, at the least.
_PADDING: Final = 128
_WIDEST_TRAINING: Final = 8


def check_vocabulary(settings: Settings, tokenizer: Tokenizer, vocab_size: int, source_tp: int) -> None:
    """Refuse a tokenizer that is not the model's.

    Args:
        settings: the configuration.
        tokenizer: that it names.
        vocab_size: rows of the checkpoint's vocabulary.
        source_tp: the checkpoint's tensor-parallel size.

    Raises:
        CheckpointError: the vocabulary has too few rows, or more than padding explains.
    """
    config = settings.model
    ranks = max(_WIDEST_TRAINING, config.model_parallel_size, source_tp)
    padding = max(_PADDING, config.make_vocab_size_divisible_by) * ranks
    # Tokens may have been added without rows for them: then it is an error only where one occurs.
    if not tokenizer.trained_size <= vocab_size < tokenizer.vocab_size + padding:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} entries, but the checkpoint's vocabulary has {vocab_size}",
            code="mismatched_tokenizer",
            where=str(settings.tokenizer.vocab_file),
            hint="Give the tokenizer that the model was trained with (--tokenizer FILE).",
        )
