"""Log-probabilities of the tokens, words and documents of a file."""
