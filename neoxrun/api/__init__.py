"""The Python API: ``LLM`` and what it gives back."""
