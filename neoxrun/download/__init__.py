"""Downloads of weights, tokenizers and task data, with checks that they are complete."""
