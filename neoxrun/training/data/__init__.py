"""Files of texts or of tokens to the rows that are trained on, packed and ordered as GPT-NeoX does."""
