"""Run GPT-NeoX models from their checkpoint files on any tensor x pipeline split."""

__version__ = "0.1.0"
