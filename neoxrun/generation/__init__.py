"""Text generation: prompts in, records out."""
