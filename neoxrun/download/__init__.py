"""Fetching weights, tokenizers and task data, and proving that they are whole."""
