"""Text to token ids and back, with the tokenizers that GPT-NeoX models come with. No torch."""

from neoxrun.tokenizer.files import load_tokenizer, vocabulary_size
from neoxrun.tokenizer.text import END_OF_DOCUMENT, StreamDecoder, Tokenizer

__all__ = ["END_OF_DOCUMENT", "StreamDecoder", "Tokenizer", "load_tokenizer", "vocabulary_size"]
